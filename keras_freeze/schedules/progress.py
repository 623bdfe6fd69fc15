"""Where a training is in its schedule. Pure: progress is a value, each event gives the next."""

from __future__ import annotations

import bisect
import dataclasses
import math
from typing import Any, TypeVar

from keras_freeze.checks import check_count
from keras_freeze.schedules.metrics import Logs
from keras_freeze.schedules.phase import Phase, PhaseSequence
from keras_freeze.schedules.triggers import AfterEpochs, State, Trigger

Schedule = TypeVar("Schedule", bound=PhaseSequence)


@dataclasses.dataclass(frozen=True)
class Progress:
    """A moment in a schedule.

    Attributes:
        schedule: `FreezeSchedule`.
        index: Int, the phase; -1 before the first.
        state: The state of the trigger that ends it; None if nothing does.
    """

    schedule: PhaseSequence
    index: int
    state: State

    @property
    def phase(self) -> Phase | None:
        """The phase, None before the first."""
        return None if self.index < 0 else self.schedule.phases[self.index]

    @property
    def trigger(self) -> Trigger | None:
        """What ends the phase; before the first, its epoch."""
        return _trigger(self.schedule, self.index)

    @property
    def is_last(self) -> bool:
        """Whether no phase follows."""
        return self.index == len(self.schedule.phases) - 1

    @property
    def is_over(self) -> bool:
        """Whether the phase has come to its end."""
        return self.trigger is not None and self.trigger.fired(self.state)

    def after_steps(self, steps: int) -> Progress:
        """Return the progress after so many more batches in the same phase."""
        if self.trigger is None or not steps:
            return self
        return dataclasses.replace(self, state=self.trigger.after_steps(self.state, steps))

    def after_epoch(self, logs: Logs) -> Progress:
        """Return the progress after the end of an epoch in the same phase."""
        if self.trigger is None:
            return self
        return dataclasses.replace(self, state=self.trigger.after_epoch(self.state, logs))

    def next(self) -> Progress:
        """Return the beginning of the next phase."""
        return _beginning_of(self.schedule, self.index + 1)


def beginning(schedule: PhaseSequence) -> Progress:
    """Return the beginning of a schedule, at epoch 0."""
    return _beginning_of(schedule, -1 if schedule.start else 0)


def progress_at(
    schedule: PhaseSequence, epoch: int, steps_per_epoch: int | None, stride: int = 1
) -> Progress | None:
    """Return the progress at the beginning of an epoch, None where it depends on logs.

    Args:
        schedule: `FreezeSchedule`.
        epoch: Int, 0-based.
        steps_per_epoch: Int, batches in an epoch; None if not known.
        stride: Int, batches in an execution of the train step. Defaults to 1.

    Returns:
        `Progress` in the phase that the epoch begins in.
    """
    moments = timeline(schedule, steps_per_epoch, stride)
    begun = [m for m in moments if m is not None and (m.epoch, m.step) <= (epoch, 0)]
    if not begun:
        return dataclasses.replace(beginning(schedule), state=epoch)
    progress, moment = _beginning_of(schedule, len(begun) - 1), begun[-1]
    if moment == Moment(epoch) or progress.trigger is None:
        return progress
    if _length(progress.trigger, moment, steps_per_epoch) is None:
        return None
    epochs = epoch - moment.epoch
    progress = progress.after_steps(epochs * (steps_per_epoch or 0) - moment.step)
    for _ in range(epochs):
        progress = progress.after_epoch({})
    return progress


@dataclasses.dataclass(frozen=True)
class Moment:
    """A beginning between two batches.

    Attributes:
        epoch: Int, 0-based.
        step: Int, the batches done in that epoch before it.
    """

    epoch: int
    step: int = 0


def timeline(
    schedule: PhaseSequence, steps_per_epoch: int | None, stride: int = 1
) -> tuple[Moment | None, ...]:
    """Return when each phase begins, None from the first that depends on logs.

    Args:
        schedule: `FreezeSchedule`.
        steps_per_epoch: Int, positive, batches in an epoch; None if not known.
        stride: Int, batches in an execution of the train step. Defaults to 1.

    Returns:
        Tuple of `Moment` or None, one for each phase.

    Raises:
        ValueError: if `steps_per_epoch` is not a positive integer.
    """
    if steps_per_epoch is not None:
        check_count("timeline", "steps_per_epoch", steps_per_epoch)
    moments: list[Moment | None] = [Moment(schedule.start)]
    for phase in schedule.phases[:-1]:
        moments.append(_end(phase.trigger, moments[-1], steps_per_epoch, stride))
    return tuple(moments)


def end_of_phase(
    progress: Progress, now: Moment, epochs: int, steps_per_epoch: int | None, stride: int = 1
) -> Moment | None:
    """Return when the present phase ends, None where that depends on logs.

    Args:
        progress: `Progress` at present.
        now: `Moment`, the present one.
        epochs: Int, the epochs of the fit, with which the last phase ends at the latest.
        steps_per_epoch: Int, batches in an epoch; None if not known.
        stride: Int, batches in an execution of the train step. Defaults to 1.

    Example:
        >>> from keras_freeze.schedules import AfterSteps, FreezeSchedule, Phase
        >>> schedule = FreezeSchedule([Phase("low", until=AfterSteps(25)), Phase()])
        >>> end_of_phase(beginning(schedule), Moment(0), 6, steps_per_epoch=10)
        Moment(epoch=2, step=5)
    """
    trigger = progress.trigger
    if trigger is None:
        return Moment(epochs)
    if not trigger.is_calendar:
        return None
    if steps_per_epoch is None and trigger.after_steps(trigger.begin(), 1) != trigger.begin():
        return None
    steps, done = steps_per_epoch or 0, now.step
    for epoch in range(now.epoch, epochs):
        left = max(0, steps - done)
        after = progress.after_steps(left)
        if after.is_over:  # once such a trigger has fired, it stays fired
            executions = range(math.ceil(left / stride))
            fired = bisect.bisect_left(
                executions, True, key=lambda n: progress.after_steps(n * stride).is_over
            )
            if fired < len(executions):
                return Moment(epoch, done + fired * stride)
        progress, done = after.after_epoch({}), 0
        if progress.is_over:
            return Moment(epoch + 1)
    return Moment(epochs)


def soonest(schedule: Schedule) -> Schedule:
    """Return a fixed-length schedule whose phases begin as early as those of another can."""
    phases = []
    for phase in schedule.phases:
        end = None if phase.trigger is None else phase.trigger.soonest()
        phases.append(dataclasses.replace(phase, until=end))
    made: Any = schedule  # a dataclass, which a protocol can't demand
    return dataclasses.replace(made, phases=phases)


def _end(
    trigger: Trigger | None, begun: Moment | None, steps: int | None, stride: int
) -> Moment | None:
    length = None if trigger is None or begun is None else _length(trigger, begun, steps)
    if begun is None or length is None:
        return None
    per_epoch = steps or 1
    epochs, step = divmod(begun.step + length, per_epoch)
    step = math.ceil(step / stride) * stride  # a phase ends with an execution, or with an epoch
    last = begun.epoch + epochs
    return Moment(last, step) if step < per_epoch else Moment(last + 1)


def _length(trigger: Trigger, begun: Moment, steps: int | None) -> int | None:
    """Return a phase's length, in batches or, where nothing counts these, in epochs."""
    if not trigger.is_calendar:
        return None
    if steps is None:
        counts_steps = trigger.after_steps(trigger.begin(), 1) != trigger.begin()
        return None if counts_steps else trigger.length(1, 0)
    return trigger.length(steps, begun.step)


def _trigger(schedule: PhaseSequence, index: int) -> Trigger | None:
    return AfterEpochs(schedule.start) if index < 0 else schedule.phases[index].trigger


def _beginning_of(schedule: PhaseSequence, index: int) -> Progress:
    trigger = _trigger(schedule, index)
    return Progress(schedule, index, None if trigger is None else trigger.begin())
