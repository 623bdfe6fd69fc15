"""Schedules that are decided while they run: each phase follows from what those before brought.

Pure: what the phases brought goes in, and the next phase comes out. The same outcomes always give
the same decision, so a training that is resumed needs to keep no more than them.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence

from keras_freeze.checks import first_few
from keras_freeze.policies import BatchNormMode
from keras_freeze.schedules.metrics import Direction
from keras_freeze.schedules.phase import Phase
from keras_freeze.schedules.schedule import FreezeSchedule


@dataclasses.dataclass(frozen=True)
class Setting:
    """What an adaptive schedule is for.

    Attributes:
        groups: Names of the layer groups that may train, from input to head.
        epochs: Int, the epochs of the training.
        batch_norm: Mode for `BatchNormalization` in all phases.
        steps_per_epoch: Int, batches in an epoch; None if not known.
        places: Of each its place among all groups; by default there are no others.
    """

    groups: tuple[str, ...]
    epochs: int
    batch_norm: BatchNormMode = "frozen"
    steps_per_epoch: int | None = None
    places: tuple[int, ...] = ()

    def depth(self, frozen: int) -> int:
        """Return how many groups lie below the lowest that trains, if so many of these don't."""
        return self.places[frozen] if self.places else frozen


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a phase brought.

    Attributes:
        values: The monitored metric after each of its epochs; none where nothing is monitored.
        end: Float, the epochs of the training that were done by its end.
        changes: How much each group that trains has changed, NaN where that isn't known.
    """

    values: tuple[float, ...]
    end: float = 0.0
    changes: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a decision rests on.

    Attributes:
        what: Str, what is decided.
        value: Float, by which value.
        threshold: Float, against which; None for none.
        metric: Str, what the value is of; None for the schedule's criterion.
    """

    what: str
    value: float
    threshold: float | None = None
    metric: str | None = None


@dataclasses.dataclass(frozen=True)
class Decision:
    """What follows a phase. States are kept under names: weights, optimizer, seeds, best epoch.

    Attributes:
        phase: The phase that follows; None to end the training.
        is_final: Bool, whether nothing is decided after that phase.
        restores_best: Bool, whether the model goes back to the best epoch of the phase that has
            ended, before anything else.
        keeps: Str, the name under which the state of the training is kept; None for no state.
        returns_to: Str, the kept state in which the next phase begins; None for the present one.
        forgets: Names of the kept states that are needed no longer after that.
        evidence: What it rests on, for the lines and the table.
        measured: Pairs of a label and a value: all that was compared, for the picture.
        labels: Numbers that each epoch of the next phase has in its logs.
    """

    phase: Phase | None
    is_final: bool = False
    restores_best: bool = False
    keeps: str | None = None
    returns_to: str | None = None
    forgets: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    measured: tuple[tuple[str, float], ...] = ()
    labels: tuple[tuple[str, int], ...] = ()


def depth_in_words(setting: Setting, frozen: int) -> str:
    """Say how deep a model is frozen, and what trains.

    Example:
        >>> depth_in_words(Setting(("block1", "block2", "head"), 5), 1)
        'depth 1 of 2: head and block2 train'
    """
    training = list(reversed(setting.groups[frozen:]))
    verb = "train" if len(training) > 1 else "trains"
    deepest = setting.depth(len(setting.groups) - 1)
    return f"depth {setting.depth(frozen)} of {deepest}: {first_few(training)} {verb}"


class AdaptiveSchedule(abc.ABC):
    """A schedule whose next phase depends on what those before it brought."""

    @property
    @abc.abstractmethod
    def best_by(self) -> tuple[str, Direction] | None:
        """The metric by which an epoch is the best, and its direction; None to monitor nothing."""

    @property
    @abc.abstractmethod
    def criterion(self) -> str:
        """What decisions rest on, such as the name of a metric."""

    @property
    def monitor(self) -> str | None:
        """The metric whose values decisions see, None for none: that of the best epoch."""
        return None if self.best_by is None else self.best_by[0]

    @property
    @abc.abstractmethod
    def is_race(self) -> bool:
        """Whether several trainings take turns in one fit, so that its epochs do not compare."""

    @property
    def depends_on_epochs(self) -> bool:
        """Whether what is decided depends on the epochs of the training."""
        return True

    @abc.abstractmethod
    def outline(self, setting: Setting) -> FreezeSchedule:
        """Return the phases as far as they are known beforehand.

        Raises:
            ValueError: if the setting doesn't allow for such a schedule.
        """

    @property
    @abc.abstractmethod
    def prospect(self) -> str:
        """How what is not known beforehand is decided, in a sentence."""

    def remarks(self, setting: Setting) -> tuple[str, ...]:
        """Return sentences to print before the first phase; none by default."""
        return ()

    @abc.abstractmethod
    def decide(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return what follows the phases that have ended; the first phase after none."""

    @abc.abstractmethod
    def conclude(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return where a training ends that doesn't reach its final phase.

        Args:
            setting: What the schedule is for.
            outcomes: Those of all phases, the last as far as it came; at least one.

        Returns:
            `Decision` for the phase of the best depth, which returns to its state unless that is
            the present one.
        """

    @abc.abstractmethod
    def verdict(self, setting: Setting, outcomes: Sequence[Outcome]) -> str:
        """Return in words what was found; arguments as there, without a final phase."""


@dataclasses.dataclass(frozen=True)
class AdaptivePlan:
    """An adaptive schedule for a model and a number of epochs.

    Attributes:
        schedule: The schedule.
        setting: What it is for.
    """

    schedule: AdaptiveSchedule
    setting: Setting

    @property
    def identity(self) -> str:
        """What must be the same in a script that continues from a backup."""
        length = f", {self.setting.epochs} epochs" if self.schedule.depends_on_epochs else ""
        return f"{self.schedule!r}{length}"

    def decide(self, outcomes: Sequence[Outcome]) -> Decision:
        """Return what follows the phases that have ended; the first phase after none."""
        return self.schedule.decide(self.setting, outcomes)

    def conclude(self, outcomes: Sequence[Outcome]) -> Decision:
        """Return where a training ends that doesn't reach its final phase."""
        return self.schedule.conclude(self.setting, outcomes)

    def verdict(self, outcomes: Sequence[Outcome]) -> str:
        """Return in a sentence what was found."""
        return self.schedule.verdict(self.setting, outcomes)
