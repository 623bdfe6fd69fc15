"""Gradual unfreezing that stops at the freeze depth of a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from keras_freeze.callbacks import GradualUnfreeze
from keras_freeze.checks import ArgumentError
from keras_freeze.model_picture import GroupNames, ModelPicture
from keras_freeze.policies import of_groups
from keras_freeze.schedules import AdaptivePlan, FreezeSchedule, FromTheHead, Planner
from keras_freeze.tuning.depth_in_force import Depth, depth_of


@dataclasses.dataclass(frozen=True)
class AboveDepth(Planner):
    """Plans never to unfreeze what `freeze_depth` has frozen in its model.

    Args:
        planner: `FromTheHead`, what plans for the groups above; a mapping is for all groups.
    """

    planner: FromTheHead
    keeps_unfrozen: ClassVar[bool] = True

    def plan(self, picture: ModelPicture, epochs: int, steps: int | None = None) -> FreezeSchedule:
        """Return the schedule for the groups above the depth."""
        depth = depth_of(picture.model)
        if depth is None:
            return self.planner.plan(picture, epochs, steps)
        if depth.backbone != picture.backbone:
            raise ArgumentError(
                self.planner.owner,
                "backbone",
                "be that of freeze_depth",
                received=f"backbone={picture.backbone!r}, but freeze_depth got {depth.backbone!r}",
                advice="Pass the same backbone= to both.",
            )
        names = picture.group_names
        if not isinstance(self.planner.schedule, Mapping):
            names = _names_above(picture, depth)
        plan = self.planner.plan_for(names, epochs, steps)
        phases = [
            dataclasses.replace(phase, frozen=phase.policy(picture.division) | depth.policy)
            for phase in plan.phases
        ]
        return dataclasses.replace(plan, phases=phases)

    def adaptive(
        self, picture: ModelPicture, epochs: int, steps: int | None = None
    ) -> AdaptivePlan | None:
        """Return what the planner does, where no depth was asked for."""
        found = self.planner.adaptive(picture, epochs, steps)
        if found is not None and depth_of(picture.model) is not None:
            raise ArgumentError(
                self.planner.owner,
                "schedule",
                "not find the freeze depth itself in a model that freeze_depth has frozen",
                value=self.planner.schedule,
                advice="Leave freeze_depth out of the build function.",
            )
        return found

    def finds_nothing_pretrained(self, picture: ModelPicture) -> bool:
        """Tell it as the planner does, where no depth was asked for."""
        has_depth = depth_of(picture.model) is not None
        return not has_depth and self.planner.finds_nothing_pretrained(picture)

    def plan_for(
        self, names: Sequence[str], epochs: int, steps: int | None = None
    ) -> FreezeSchedule:
        """Return the schedule for all groups, where nothing is frozen by a search."""
        return self.planner.plan_for(names, epochs, steps)

    def remarks(self, picture: ModelPicture, epochs: int) -> tuple[str, ...]:
        """Say where several of the groups above the depth unfreeze at once."""
        depth = depth_of(picture.model)
        if depth is None:
            return self.planner.remarks(picture, epochs)
        return self.planner.remarks_for(_names_above(picture, depth), epochs)


def unfreeze_above_depth(schedule: Any, **options: Any) -> GradualUnfreeze:
    """Return a `GradualUnfreeze` that never unfreezes what `freeze_depth` has frozen."""
    callback = GradualUnfreeze(schedule, **options)
    callback.adapt_planner = AboveDepth
    return callback


def _names_above(picture: ModelPicture, depth: Depth) -> GroupNames:
    """Return the names of the groups of which something is to unfreeze."""
    frozen = depth.policy.select_in(picture)
    groups = [
        group
        for group in picture.groups_that_may_train
        if (of_groups(picture, [group]) - frozen).variables
    ]
    return GroupNames.of(groups or picture.groups[-1:])
