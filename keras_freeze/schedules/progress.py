"""Where a training is in its schedule. Pure: progress is a value, each event gives the next."""

from __future__ import annotations

import dataclasses

from keras_freeze.schedules.phases import FreezeSchedule, Phase
from keras_freeze.schedules.triggers import AfterEpochs, Logs, State, Trigger


@dataclasses.dataclass(frozen=True)
class Progress:
    """A moment in a schedule.

    Attributes:
        schedule: `FreezeSchedule`.
        index: Int, the phase; -1 before the first.
        state: The state of the trigger that ends it; None if nothing does.
    """

    schedule: FreezeSchedule
    index: int
    state: State

    @property
    def phase(self) -> Phase | None:
        """The phase, None before the first."""
        return None if self.index < 0 else self.schedule.phases[self.index]

    @property
    def is_last(self) -> bool:
        """Whether no phase follows."""
        return self.index == len(self.schedule.phases) - 1

    @property
    def is_over(self) -> bool:
        """Whether the phase has come to its end."""
        trigger = _trigger(self.schedule, self.index)
        return trigger is not None and trigger.fired(self.state)

    def after_steps(self, steps: int) -> Progress:
        """Return the progress after so many more batches in the same phase."""
        trigger = _trigger(self.schedule, self.index)
        if trigger is None or not steps:
            return self
        return dataclasses.replace(self, state=trigger.after_steps(self.state, steps))

    def after_epoch(self, logs: Logs) -> Progress:
        """Return the progress after the end of an epoch in the same phase."""
        trigger = _trigger(self.schedule, self.index)
        if trigger is None:
            return self
        return dataclasses.replace(self, state=trigger.after_epoch(self.state, logs))

    def next(self) -> Progress:
        """Return the beginning of the next phase."""
        return _beginning_of(self.schedule, self.index + 1)


def beginning(schedule: FreezeSchedule) -> Progress:
    """Return the beginning of a schedule, at epoch 0."""
    return _beginning_of(schedule, -1 if schedule.start else 0)


def progress_at(
    schedule: FreezeSchedule, epoch: int, steps_per_epoch: int | None, stride: int = 1
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
    progress = beginning(schedule)
    for _ in range(epoch):
        progress = _entered(progress)
        if not _is_known(progress, steps_per_epoch):
            return None
        if steps_per_epoch is not None and counts_steps(schedule):
            progress = _through_steps(progress, steps_per_epoch, stride)
            if not _is_known(progress, steps_per_epoch):
                return None
        progress = progress.after_epoch({})
    return _entered(progress)


@dataclasses.dataclass(frozen=True)
class Moment:
    """A beginning between two batches.

    Attributes:
        epoch: Int, 0-based.
        step: Int, the batches done in that epoch before it.
    """

    epoch: int
    step: int = 0


def timeline(schedule: FreezeSchedule, steps_per_epoch: int | None) -> tuple[Moment | None, ...]:
    """Return when each phase begins, None from the first that depends on logs.

    Args:
        schedule: `FreezeSchedule`.
        steps_per_epoch: Int, batches in an epoch; None if not known.

    Returns:
        Tuple of `Moment` or None, one for each phase.
    """
    progress, epoch, moments = beginning(schedule), 0, list[Moment | None]()
    if progress.index == 0:
        moments.append(Moment(0))
    while len(moments) < len(schedule.phases):
        if not _is_known(progress, steps_per_epoch):
            return (*moments, *[None] * (len(schedule.phases) - len(moments)))
        if progress.is_over:
            progress = progress.next()
            moments.append(Moment(epoch))
            continue
        step = 0
        while counts_steps(schedule) and step < (steps_per_epoch or 0) and not progress.is_last:
            progress, step = progress.after_steps(1), step + 1
            if progress.is_over and step < (steps_per_epoch or 0):
                progress = progress.next()
                moments.append(Moment(epoch, step))
        if not _is_known(progress, steps_per_epoch):
            continue
        progress, epoch = progress.after_epoch({}), epoch + 1
    return tuple(moments)


def counts_steps(schedule: FreezeSchedule) -> bool:
    """Tell whether a phase may end in the middle of an epoch."""
    return any(
        trigger.after_steps(trigger.begin(), 1) != trigger.begin()
        for phase in schedule.phases
        if (trigger := phase.trigger) is not None
    )


def _entered(progress: Progress) -> Progress:
    while progress.is_over and not progress.is_last:
        progress = progress.next()
    return progress


def _through_steps(progress: Progress, steps: int, stride: int) -> Progress:
    done = 0
    while done < steps:
        progress = _entered(progress)
        now = min(stride, steps - done)
        progress, done = progress.after_steps(now), done + now
    return progress


def _is_known(progress: Progress, steps_per_epoch: int | None) -> bool:
    trigger = _trigger(progress.schedule, progress.index)
    if trigger is None:
        return True
    is_counted = trigger.after_steps(trigger.begin(), 1) != trigger.begin()
    return trigger.is_calendar and (steps_per_epoch is not None or not is_counted)


def _trigger(schedule: FreezeSchedule, index: int) -> Trigger | None:
    return AfterEpochs(schedule.start) if index < 0 else schedule.phases[index].trigger


def _beginning_of(schedule: FreezeSchedule, index: int) -> Progress:
    trigger = _trigger(schedule, index)
    return Progress(schedule, index, None if trigger is None else trigger.begin())
