"""Planners: they make the schedule for a model's layer groups and a number of epochs. Pure.

A callback has one. It is made from the callback's arguments and checks them; the schedule
follows when the model and the length of training are known.
"""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from keras_freeze.checks import ArgumentError, ArgumentTypeError, is_int
from keras_freeze.model_picture import GroupNames, ModelPicture, all_untouched
from keras_freeze.policies import BatchNormMode, check_batch_norm
from keras_freeze.schedules.adaptive import AdaptivePlan, AdaptiveSchedule, Setting
from keras_freeze.schedules.auto import Auto
from keras_freeze.schedules.builders import gradual
from keras_freeze.schedules.epoch_plans import check_plan, even_starts, unfreeze_plan
from keras_freeze.schedules.phase import Phase
from keras_freeze.schedules.schedule import FreezeSchedule
from keras_freeze.schedules.triggers import Trigger, TriggerLike, as_trigger


class Planner(abc.ABC):
    """What makes the schedule of a fit. To most, only the names of the groups matter.

    Attributes:
        keeps_unfrozen: Bool, whether a fit that starts at a later epoch never freezes again what
            earlier training has unfrozen.
    """

    keeps_unfrozen: ClassVar[bool] = False

    def plan(self, picture: ModelPicture, epochs: int, steps: int | None = None) -> FreezeSchedule:
        """Return the schedule.

        Args:
            picture: The picture of the model, with its groups.
            epochs: Int, the epochs of the training.
            steps: Int, batches in an epoch; None if not known.
        """
        return self.plan_for(GroupNames.of(picture.groups_that_may_train), epochs, steps)

    def remarks(self, picture: ModelPicture, epochs: int) -> tuple[str, ...]:
        """Return sentences to print about this plan; arguments as for `plan`."""
        return self.remarks_for(GroupNames.of(picture.groups_that_may_train), epochs)

    def finds_nothing_pretrained(self, picture: ModelPicture) -> bool:
        """Tell whether everything counts as new, and trains from the first step."""
        return False

    def adaptive(
        self, picture: ModelPicture, epochs: int, steps: int | None = None
    ) -> AdaptivePlan | None:
        """Return what decides the phases while they run, None where the plan is all there is.

        The plan then shows what is known beforehand.

        Args:
            picture: As for `plan`.
            epochs: As for `plan`.
            steps: Int, batches in an epoch; None if not known.
        """
        return None

    @abc.abstractmethod
    def plan_for(
        self, names: Sequence[str], epochs: int, steps: int | None = None
    ) -> FreezeSchedule:
        """Return the schedule for groups of these names, from input to head."""

    def remarks_for(self, names: Sequence[str], epochs: int) -> tuple[str, ...]:
        """Return sentences to print about the plan for these groups; none by default."""
        return ()


@dataclasses.dataclass(frozen=True)
class GivenSchedule(Planner):
    """Plan by a schedule that is given as such, whatever the groups and epochs.

    Args:
        owner: Str, the class or function in whose name errors are raised.
        schedule: `FreezeSchedule`, the path of its YAML file, which is read for each plan, or a
            mapping from epoch (0-based) to a `Phase` or to what is frozen from then on.
        batch_norm: Mode for `BatchNormalization`, for the phases of a mapping. Defaults to
            `"frozen"`.

    Raises:
        TypeError: if the schedule is of another type.
        ValueError: if it is invalid.

    Example:
        >>> planner = GivenSchedule("FreezeScheduler", {0: "low", 2: None})
        >>> planner.plan_for(["low", "head"], epochs=3).starts()
        (0, 2)
    """

    owner: str
    schedule: FreezeSchedule | Mapping[int, Any] | str | os.PathLike[str]
    batch_norm: BatchNormMode = "frozen"

    def __post_init__(self) -> None:
        check_batch_norm(self.owner, self.batch_norm)
        if self.batch_norm != "frozen" and not isinstance(self.schedule, Mapping):
            raise ArgumentError(
                self.owner,
                "batch_norm",
                "be left out where the phases of a schedule have modes of their own",
                value=self.batch_norm,
            )
        self.plan_for((), 1)

    def plan_for(
        self, names: Sequence[str], epochs: int, steps: int | None = None
    ) -> FreezeSchedule:
        """Return the schedule."""
        if isinstance(self.schedule, FreezeSchedule):
            return self.schedule
        if isinstance(self.schedule, (str, os.PathLike)):
            return FreezeSchedule.from_yaml(self.schedule)
        if not isinstance(self.schedule, Mapping):
            raise ArgumentTypeError(
                self.owner,
                "schedule",
                "be a FreezeSchedule, the path of its YAML file, or a mapping from epoch to what "
                "is frozen",
                value=self.schedule,
            )
        phases = {}
        for epoch, value in self.schedule.items():
            is_phase = isinstance(value, Phase)
            phases[epoch] = value if is_phase else Phase(value, batch_norm=self.batch_norm)
        return FreezeSchedule(phases)


@dataclasses.dataclass(frozen=True)
class ByDecisions(Planner):
    """Plan by an adaptive schedule that is given as such, for all groups.

    Args:
        owner: Str, the class in whose name errors are raised.
        schedule: The schedule.
        batch_norm: Mode for `BatchNormalization` in all phases.
    """

    owner: str
    schedule: AdaptiveSchedule
    batch_norm: BatchNormMode

    def adaptive(
        self, picture: ModelPicture, epochs: int, steps: int | None = None
    ) -> AdaptivePlan | None:
        """Return what decides the phases; None for a single group, where nothing is decided."""
        setting = _setting_in(picture, epochs, self.batch_norm, steps)
        return AdaptivePlan(self.schedule, setting) if len(setting.groups) > 1 else None

    def plan_for(
        self, names: Sequence[str], epochs: int, steps: int | None = None
    ) -> FreezeSchedule:
        """Return what is known beforehand; a single phase for a single group."""
        if len(names) == 1:
            return FreezeSchedule([Phase(batch_norm=self.batch_norm)])
        return self.schedule.outline(Setting(tuple(names), epochs, self.batch_norm, steps))

    def remarks_for(self, names: Sequence[str], epochs: int) -> tuple[str, ...]:
        """Return a sentence where there is nothing to decide."""
        if len(names) > 1:
            return ()
        return (f"{self.owner}: only {names[0]} may train, so that nothing freezes.",)


@dataclasses.dataclass(frozen=True)
class FromTheHead(Planner):
    """Plan gradual unfreezing: the head first, then one group after the other.

    Args:
        owner: Str, the class or function in whose name errors are raised.
        schedule: When groups unfreeze: `"even"` (default) spreads them over the epochs; an int
            is a number of epochs per group; a mapping from epoch to a group's name or names
            unfreezes these then; a trigger or callable unfreezes one more group each time it fires,
            and ends the fit when it fires with all groups unfrozen; `"auto"` or an `Auto` finds the
            depth.
        batch_norm: Mode for `BatchNormalization` in all phases. Defaults to `"frozen"`.
        judges_values: Bool, whether a backbone whose layers are all untouched counts as new: all
            of the model then trains in one phase, but where a mapping says otherwise. Defaults to
            False.

    Raises:
        TypeError: if the schedule is of another type.
        ValueError: if it is invalid.

    Example:
        >>> planner = FromTheHead("GradualUnfreeze")
        >>> [phase.frozen for phase in planner.plan_for(["low", "middle", "head"], epochs=9).phases]
        [('low', 'middle'), ('low',), ()]
        >>> planner.remarks_for(["low", "middle", "head"], epochs=2)
        ('GradualUnfreeze: 2 epochs for 3 layer groups, so several groups unfreeze at once.',)
    """

    owner: str
    schedule: str | Mapping[int, str | Sequence[str]] | TriggerLike | AdaptiveSchedule = "even"
    batch_norm: BatchNormMode = "frozen"
    judges_values: bool = False
    keeps_unfrozen: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_batch_norm(self.owner, self.batch_norm)
        schedule: Any = self.schedule
        if isinstance(schedule, Mapping) and schedule:
            check_plan(self.owner, schedule)
            if min(schedule) == 0:
                return
        elif (
            schedule == "even" or (is_int(schedule) and schedule > 0) or self._adaptive is not None
        ):
            return
        elif isinstance(schedule, Trigger) or callable(schedule):
            as_trigger(schedule, self.owner, "schedule")
            return
        raise ArgumentError(
            self.owner,
            "schedule",
            'be "even", "auto", a positive int (epochs per group), a mapping from epoch to groups '
            "that begins at epoch 0, a trigger such as schedules.OnPlateau(), or a schedules.Auto",
            value=schedule,
        )

    def finds_nothing_pretrained(self, picture: ModelPicture) -> bool:
        """Tell whether everything counts as new, and trains from the first step."""
        if not self.judges_values or isinstance(self.schedule, Mapping):
            return False
        groups = picture.groups_that_may_train[:-1]
        return all_untouched(picture, (layer for group in groups for layer in group.layers))

    def plan(self, picture: ModelPicture, epochs: int, steps: int | None = None) -> FreezeSchedule:
        """Return the schedule; a single phase where nothing is pretrained."""
        if isinstance(self.schedule, Mapping):
            return self.plan_for(picture.group_names, epochs)
        if not self.finds_nothing_pretrained(picture):
            return super().plan(picture, epochs, steps)
        until = self.plan_for(["head"], epochs).phases[-1].until
        batch_norm: BatchNormMode = "follow" if self.batch_norm == "frozen" else self.batch_norm
        return FreezeSchedule([Phase(rates=1.0, batch_norm=batch_norm, until=until)])

    def adaptive(
        self, picture: ModelPicture, epochs: int, steps: int | None = None
    ) -> AdaptivePlan | None:
        """Return what decides the phases; None where there is nothing to decide."""
        setting = _setting_in(picture, epochs, self.batch_norm, steps)
        is_single = len(setting.groups) == 1
        if self._adaptive is None or is_single or self.finds_nothing_pretrained(picture):
            return None
        return AdaptivePlan(self._adaptive, setting)

    @property
    def _adaptive(self) -> AdaptiveSchedule | None:
        if isinstance(self.schedule, AdaptiveSchedule):
            return self.schedule
        return Auto() if self.schedule == "auto" else None

    def remarks(self, picture: ModelPicture, epochs: int) -> tuple[str, ...]:
        """Return a sentence where the epochs are too few for one group at a time."""
        if self.finds_nothing_pretrained(picture):
            return ()
        return super().remarks(picture, epochs)

    def plan_for(
        self, names: Sequence[str], epochs: int, steps: int | None = None
    ) -> FreezeSchedule:
        """Return the schedule."""
        schedule: Any = self.schedule
        if self._adaptive is not None:
            if len(names) == 1:
                return FreezeSchedule([Phase(batch_norm=self.batch_norm)])
            return self._adaptive.outline(Setting(tuple(names), epochs, self.batch_norm, steps))
        if isinstance(schedule, Trigger) or callable(schedule):
            if len(names) == 1:
                phase = Phase(batch_norm=self.batch_norm, until=schedule)
                return FreezeSchedule([phase])
            return gradual(names, schedule, last=schedule, rates=None, batch_norm=self.batch_norm)
        if isinstance(schedule, Mapping):
            frozen = unfreeze_plan(schedule, names, owner=self.owner)
        elif schedule == "even":
            frozen = _one_more_at_each(even_starts(len(names), epochs), names)
        else:
            frozen = _one_more_at_each(range(0, schedule * len(names), schedule), names)
        phases = {epoch: Phase(held, batch_norm=self.batch_norm) for epoch, held in frozen.items()}
        return FreezeSchedule(phases)

    def remarks_for(self, names: Sequence[str], epochs: int) -> tuple[str, ...]:
        """Return a sentence where the epochs are too few for one group at a time."""
        if self._adaptive is not None and len(names) > 1:
            return self._adaptive.remarks(Setting(tuple(names), epochs, self.batch_norm))
        is_even = self.schedule == "even"
        if not is_even or epochs >= len(names):
            return ()
        length = f"{epochs} epoch{'s' if epochs > 1 else ''}"
        return (
            f"{self.owner}: {length} for {len(names)} layer groups, so several groups unfreeze "
            "at once.",
        )


def _setting_in(
    picture: ModelPicture, epochs: int, batch_norm: BatchNormMode, steps: int | None
) -> Setting:
    names = tuple(GroupNames.of(picture.groups_that_may_train))
    places = tuple(picture.group_names.index(name) for name in names)
    return Setting(names, epochs, batch_norm, steps, places)


def _one_more_at_each(epochs: Sequence[int], names: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Return what is frozen from each epoch on; groups that share an epoch unfreeze together."""
    frozen = {}
    for unfrozen, epoch in enumerate(epochs, 1):
        frozen[epoch] = tuple(names[: len(names) - unfrozen])
    return frozen
