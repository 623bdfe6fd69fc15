"""Planners: how a callback's `schedule=` becomes the schedule of one fit. Pure values.

A planner sees the picture of the model and the number of epochs, and returns phases; another
planner may take it and change what it plans.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from keras_freeze.checks import ArgumentError, ArgumentTypeError, is_int
from keras_freeze.model_picture import ModelPicture
from keras_freeze.policies import BatchNormMode
from keras_freeze.schedules.builders import gradual
from keras_freeze.schedules.epoch_plans import check_plan, even_starts, thaw_plan
from keras_freeze.schedules.phases import FreezeSchedule, Phase
from keras_freeze.schedules.triggers import Trigger, as_trigger
from keras_freeze.schedules.yaml_file import read


class Planner(Protocol):
    """What makes the schedule of a fit."""

    @property
    def keeps_unfrozen(self) -> bool:
        """Whether a fit that continues keeps what earlier training has unfrozen."""

    def plan(self, picture: ModelPicture, epochs: int) -> FreezeSchedule:
        """Return the schedule for a model, with its groups, and a training of this length."""

    def remarks(self, picture: ModelPicture, epochs: int) -> tuple[str, ...]:
        """Return what is worth knowing of that schedule before the fit begins."""


@dataclasses.dataclass(frozen=True)
class GivenSchedule:
    """Plans what it was given, whatever the model.

    Args:
        owner: Str, the callback in whose name errors are raised.
        schedule: `FreezeSchedule`, the path of its YAML file, or a mapping from epoch to what is
            frozen from then on.
        batch_norm: Mode for the phases of a mapping.
    """

    owner: str
    schedule: Any
    batch_norm: BatchNormMode = "frozen"
    keeps_unfrozen: bool = dataclasses.field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.batch_norm != "frozen" and not isinstance(self.schedule, Mapping):
            raise ArgumentError(
                self.owner,
                "batch_norm",
                "be left out where the phases of a schedule have modes of their own",
                value=self.batch_norm,
            )
        self._schedule()

    def plan(self, picture: ModelPicture, epochs: int) -> FreezeSchedule:
        """Return the schedule; a file is read anew."""
        return self._schedule()

    def remarks(self, picture: ModelPicture, epochs: int) -> tuple[str, ...]:
        """Return nothing: the schedule is as it was given."""
        return ()

    def _schedule(self) -> FreezeSchedule:
        if isinstance(self.schedule, FreezeSchedule):
            return self.schedule
        if isinstance(self.schedule, (str, os.PathLike)):
            return read(Path(self.schedule))
        if not isinstance(self.schedule, Mapping):
            raise ArgumentTypeError(
                self.owner,
                "schedule",
                "be a FreezeSchedule, the path of its YAML file, or a mapping from epoch to what "
                "is frozen",
                value=self.schedule,
            )
        return FreezeSchedule(
            {
                epoch: value if isinstance(value, Phase) else Phase(value, None, self.batch_norm)
                for epoch, value in self.schedule.items()
            }
        )


@dataclasses.dataclass(frozen=True)
class FromTheHead:
    """Plans to unfreeze one group after the other, from the head down.

    Args:
        owner: Str, the callback in whose name errors are raised.
        schedule: `"even"`, an int (epochs a group), a mapping from epoch to the groups that
            unfreeze then, or a trigger.
        batch_norm: Mode for the phases.
    """

    owner: str
    schedule: Any
    batch_norm: BatchNormMode = "frozen"
    keeps_unfrozen: bool = dataclasses.field(default=True, init=False)

    def __post_init__(self) -> None:
        schedule = self.schedule
        if isinstance(schedule, Mapping) and schedule:
            check_plan(schedule)
            is_valid = min(schedule) == 0
        elif self._is_trigger:
            as_trigger(schedule)
            is_valid = True
        else:
            is_valid = schedule == "even" or (is_int(schedule) and schedule > 0)
        if not is_valid:
            raise ArgumentError(
                self.owner,
                "schedule",
                'be "even", a positive int (epochs a group), a mapping from epoch to groups that '
                "begins at epoch 0, or a trigger such as schedules.OnPlateau()",
                value=schedule,
            )

    @property
    def _is_trigger(self) -> bool:
        return isinstance(self.schedule, Trigger) or callable(self.schedule)

    def plan(self, picture: ModelPicture, epochs: int) -> FreezeSchedule:
        """Return the schedule for the groups of a model."""
        return self.plan_for(picture.group_names, epochs)

    def plan_for(self, names: Sequence[str], epochs: int) -> FreezeSchedule:
        """Return the schedule for groups of these names, from input to head."""
        if self._is_trigger:
            if len(names) == 1:
                return FreezeSchedule([Phase((), None, self.batch_norm, until=self.schedule)])
            return gradual(
                names, self.schedule, last=self.schedule, rates=None, batch_norm=self.batch_norm
            )
        if isinstance(self.schedule, Mapping):
            frozen = thaw_plan(self.schedule, names)
        else:
            starts: Sequence[int] = even_starts(len(names), epochs)
            if self.schedule != "even":
                starts = range(0, self.schedule * len(names), self.schedule)
            frozen = {start: tuple(names[: len(names) - 1 - n]) for n, start in enumerate(starts)}
        return FreezeSchedule(
            {epoch: Phase(held, None, self.batch_norm) for epoch, held in frozen.items()}
        )

    def remarks(self, picture: ModelPicture, epochs: int) -> tuple[str, ...]:
        """Say where several groups unfreeze at once."""
        return self.remarks_for(len(picture.groups), epochs)

    def remarks_for(self, count: int, epochs: int) -> tuple[str, ...]:
        """Say where several of so many groups unfreeze at once."""
        if self.schedule != "even" or count == 1 or epochs >= count:
            return ()
        return (f"{epochs} epochs for {count} layer groups, so several groups unfreeze at once.",)
