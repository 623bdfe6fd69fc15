"""Triggers: what ends a phase. Pure: a trigger is a value, its state is plain data.

A trigger is called after every step and every epoch of its phase, and tells whether the phase
is over. It keeps no state: the state is passed in and returned, so that it can be backed up, and
one trigger can serve several phases and several fits. Triggers combine with `|` (whichever
fires first) and `&` (only while both hold).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras

from keras_freeze.checks import (
    ArgumentError,
    ArgumentTypeError,
    check_count,
    counted,
    is_int,
    is_number,
    takes,
    true_or_false,
)
from keras_freeze.schedules.metrics import Logs, Mode, direction, improves, monitored

State = Any


class Trigger(abc.ABC):
    """Base class: a value that tells when a phase is over.

    To add one, write a frozen dataclass with `fired` and what it needs of `begin`,
    `after_steps` and `after_epoch`; `describe` is what previews show. A state is None, a bool,
    a number, a string, or a list of these.
    """

    #: Whether it depends on the number of epochs and steps alone, and not on the metrics.
    #: Such a trigger has a `length`, and once it has fired it stays fired.
    is_calendar: bool = False

    def begin(self) -> State:
        """Return the state at the beginning of a phase."""
        return None

    def after_steps(self, state: State, steps: int) -> State:
        """Return the state after so many more batches."""
        return state

    def after_epoch(self, state: State, logs: Logs) -> State:
        """Return the state after the end of an epoch, given its logs."""
        return state

    def describe(self) -> str:
        """Return in words what it waits for."""
        return repr(self)

    @abc.abstractmethod
    def fired(self, state: State) -> bool:
        """Tell whether the phase is over."""

    def length(self, steps_per_epoch: int | None, done: int = 0) -> int | None:
        """Return after how many batches it fires at the latest, None if that isn't known.

        Args:
            steps_per_epoch: Int, batches in an epoch; None if not known.
            done: Int, batches of the first epoch before the phase began. Defaults to 0.
        """
        return None

    def soonest(self) -> Trigger:
        """Return a fixed-length trigger that never fires later than this one."""
        return self if self.is_calendar else AfterSteps(1)

    def __or__(self, other: TriggerLike) -> Trigger:
        """Fire as soon as one of the two does."""
        return AnyOf((*_parts(self, AnyOf), *_parts(other, AnyOf)))

    def __ror__(self, other: TriggerLike) -> Trigger:
        """Fire as soon as one of the two does, a number or callable on the left."""
        return AnyOf((other, *_parts(self, AnyOf)))

    def __and__(self, other: TriggerLike) -> Trigger:
        """Fire when both hold."""
        return AllOf((*_parts(self, AllOf), *_parts(other, AllOf)))

    def __rand__(self, other: TriggerLike) -> Trigger:
        """Fire when both hold, a number or callable on the left."""
        return AllOf((other, *_parts(self, AllOf)))


TriggerLike = Trigger | int | Callable[[Logs], bool]


@dataclasses.dataclass(frozen=True)
class AfterEpochs(Trigger):
    """End a phase after so many epochs.

    The epoch in which the phase began counts as one, even if it began in the middle.

    Args:
        epochs: Int, positive.

    Raises:
        ValueError: if it is not a positive integer.

    Example:
        >>> AfterEpochs(3) | AfterSteps(1000)
        AnyOf(triggers=(AfterEpochs(epochs=3), AfterSteps(steps=1000)))
    """

    epochs: int
    is_calendar = True

    def __post_init__(self) -> None:
        check_count("AfterEpochs", "epochs", self.epochs)

    def describe(self) -> str:
        """Return in words what it waits for."""
        return f"after {counted(self.epochs, 'epoch')}"

    def begin(self) -> State:
        """Return the epochs that have ended: none."""
        return 0

    def after_epoch(self, state: State, logs: Logs) -> State:
        """Count the epoch."""
        return state + 1

    def fired(self, state: State) -> bool:
        """Tell whether enough epochs have ended."""
        return bool(state >= self.epochs)

    def length(self, steps_per_epoch: int | None, done: int = 0) -> int | None:
        """Return the batches of these epochs."""
        return None if steps_per_epoch is None else self.epochs * steps_per_epoch - done


@dataclasses.dataclass(frozen=True)
class AfterSteps(Trigger):
    """End a phase after so many batches, in the middle of an epoch too.

    With `steps_per_execution` the phase ends with the execution in which the number is
    reached.

    Args:
        steps: Int, positive, in batches.

    Raises:
        ValueError: if it is not a positive integer.
    """

    steps: int
    is_calendar = True

    def __post_init__(self) -> None:
        check_count("AfterSteps", "steps", self.steps)

    def describe(self) -> str:
        """Return in words what it waits for."""
        return f"after {counted(self.steps, 'step')}"

    def begin(self) -> State:
        """Return the batches done: none."""
        return 0

    def after_steps(self, state: State, steps: int) -> State:
        """Count the batches."""
        return state + steps

    def fired(self, state: State) -> bool:
        """Tell whether enough batches are done."""
        return bool(state >= self.steps)

    def length(self, steps_per_epoch: int | None, done: int = 0) -> int | None:
        """Return the number of batches."""
        return self.steps


@dataclasses.dataclass(frozen=True)
class OnPlateau(Trigger):
    """End a phase when a metric has stopped improving.

    The first value of a phase is the one to improve on; each phase starts over. A value that
    is not finite is no improvement, so that phases end where a metric stays NaN; a fit warns.

    Args:
        monitor: Str, the metric to watch at the end of each epoch. Defaults to `"val_loss"`.
        patience: Int, positive, in epochs without improvement. Defaults to 3.
        min_delta: Float, non-negative. An improvement is a gain of more than that. Defaults
            to 0.
        mode: `"min"`, `"max"`, or `"auto"` (default), which infers it from the metric's name.
        cooldown: Int, non-negative. So many epochs from the beginning of the phase are never
            counted as epochs without improvement. Defaults to 0.

    Raises:
        ValueError: if an argument is invalid, or if the name does not show the mode; in a fit,
            if there is no such metric.

    Example:
        >>> trigger = OnPlateau("val_loss", patience=2)
        >>> state = trigger.begin()
        >>> for loss in (0.9, 0.7, 0.8, 0.7):
        ...     state = trigger.after_epoch(state, {"val_loss": loss})
        ...     print(trigger.fired(state))
        False
        False
        False
        True
    """

    monitor: str = "val_loss"
    patience: int = 3
    min_delta: float = 0.0
    mode: Mode = "auto"
    cooldown: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.monitor, str) or not self.monitor:
            raise ArgumentError(
                "OnPlateau",
                "monitor",
                "be the name of a metric",
                value=self.monitor,
                advice='Write "val_loss", for example.',
            )
        check_count("OnPlateau", "patience", self.patience)
        check_count("OnPlateau", "cooldown", self.cooldown, lowest=0)
        if not is_number(self.min_delta) or self.min_delta < 0:
            raise ArgumentError(
                "OnPlateau", "min_delta", "be a non-negative number", value=self.min_delta
            )
        direction("OnPlateau", self.monitor, self.mode)

    def describe(self) -> str:
        """Return in words what it waits for."""
        return f"{self.monitor} stalls for {counted(self.patience, 'epoch')}"

    def begin(self) -> State:
        """Return the best value, the epochs without improvement and those of the cooldown."""
        return [None, 0, self.cooldown]

    def after_epoch(self, state: State, logs: Logs) -> State:
        """Compare the epoch's value with the best."""
        best, wait, cooldown = state
        value = monitored("OnPlateau", self.monitor, logs)
        if improves(value, best, self.min_delta, direction("OnPlateau", self.monitor, self.mode)):
            best, wait = value, 0
        elif not cooldown:
            wait += 1
        return [best, wait, max(cooldown - 1, 0)]

    def fired(self, state: State) -> bool:
        """Tell whether the metric has stalled."""
        return bool(state[1] >= self.patience)

    def soonest(self) -> Trigger:
        """Return the epochs of a metric that never improves on its first value."""
        return AfterEpochs(max(1, self.cooldown) + self.patience)


@dataclasses.dataclass(frozen=True)
class When(Trigger):
    """End a phase after the first epoch for whose logs a function returns True.

    A bare callable is accepted wherever a trigger is. It can't be written to a file.

    Args:
        condition: Callable `(logs) -> bool`.

    Raises:
        TypeError: if it can't be called so; in a fit, if it returns anything but a bool.

    Example:
        >>> trigger = When(lambda logs: logs["accuracy"] > 0.9)
        >>> trigger.fired(trigger.after_epoch(trigger.begin(), {"accuracy": 0.95}))
        True
    """

    condition: Callable[[Logs], bool]

    def __post_init__(self) -> None:
        if not callable(self.condition) or isinstance(self.condition, (type, keras.Layer)):
            raise ArgumentTypeError(
                "When", "condition", "be a callable (logs) -> bool", value=self.condition
            )
        if not takes(self.condition, 1):
            rule = "take one argument, the logs of the epoch"
            raise ArgumentTypeError("When", "condition", rule, value=self.condition)

    def describe(self) -> str:
        """Return in words what it waits for."""
        return f"when {getattr(self.condition, '__name__', 'a condition')} holds"

    def begin(self) -> State:
        """Return that it has not fired."""
        return False

    def after_epoch(self, state: State, logs: Logs) -> State:
        """Ask the function."""
        answer = self.condition(dict(logs))
        return true_or_false("When", "condition", answer, f"logs {dict(logs)!r}")

    def fired(self, state: State) -> bool:
        """Tell what the function returned last."""
        return bool(state)

    def soonest(self) -> Trigger:
        """Return the end of the first epoch."""
        return AfterEpochs(1)


@dataclasses.dataclass(frozen=True)
class _Combined(Trigger):
    triggers: tuple[Trigger, ...]

    if TYPE_CHECKING:  # ints and callables are accepted too, and become triggers

        def __init__(self, triggers: Sequence[TriggerLike]) -> None: ...

    def __post_init__(self) -> None:
        owner = type(self).__name__
        is_sequence = isinstance(self.triggers, Sequence) and not isinstance(self.triggers, str)
        if not is_sequence or not self.triggers:
            raise ArgumentError(owner, "triggers", "be a sequence of triggers", value=self.triggers)
        parts = tuple(as_trigger(trigger, owner, "triggers") for trigger in self.triggers)
        object.__setattr__(self, "triggers", parts)

    def _described(self, word: str) -> str:
        parts = []
        for trigger in self.triggers:
            text = trigger.describe()
            parts.append(f"({text})" if isinstance(trigger, _Combined) else text)
        return f", {word} ".join(parts)

    @property
    def is_calendar(self) -> bool:  # type: ignore[override]
        """Whether all of the triggers are."""
        return all(trigger.is_calendar for trigger in self.triggers)

    def begin(self) -> State:
        """Return the states of all, in order."""
        return [trigger.begin() for trigger in self.triggers]

    def after_steps(self, state: State, steps: int) -> State:
        """Let all count the batches."""
        return [t.after_steps(s, steps) for t, s in zip(self.triggers, state, strict=True)]

    def after_epoch(self, state: State, logs: Logs) -> State:
        """Let all look at the epoch."""
        return [t.after_epoch(s, logs) for t, s in zip(self.triggers, state, strict=True)]

    def _all_fired(self, state: State) -> list[bool]:
        return [t.fired(s) for t, s in zip(self.triggers, state, strict=True)]

    def soonest(self) -> Trigger:
        """Return the same combination of the fixed-length triggers."""
        return type(self)(tuple(trigger.soonest() for trigger in self.triggers))

    def _known_lengths(self, steps_per_epoch: int | None, done: int) -> list[int]:
        lengths = (trigger.length(steps_per_epoch, done) for trigger in self.triggers)
        return [length for length in lengths if length is not None]


class AnyOf(_Combined):
    """End a phase as soon as one of several triggers fires; written `a | b`.

    Args:
        triggers: Sequence of triggers, ints (epochs) and callables.
    """

    def describe(self) -> str:
        """Return in words what it waits for."""
        return self._described("or")

    def fired(self, state: State) -> bool:
        """Tell whether one has fired."""
        return any(self._all_fired(state))

    def length(self, steps_per_epoch: int | None, done: int = 0) -> int | None:
        """Return the shortest length that is known."""
        known = self._known_lengths(steps_per_epoch, done)
        return min(known) if known else None


class AllOf(_Combined):
    """End a phase when several triggers hold at the same time; written `a & b`.

    A plateau holds until the metric improves again, a count holds from then on, and a callable
    that returned True holds until it is called again, at the end of the next epoch.

    Args:
        triggers: Sequence of triggers, ints (epochs) and callables.
    """

    def describe(self) -> str:
        """Return in words what it waits for."""
        return self._described("and")

    def fired(self, state: State) -> bool:
        """Tell whether all hold."""
        return all(self._all_fired(state))

    def length(self, steps_per_epoch: int | None, done: int = 0) -> int | None:
        """Return the longest length, if all are known."""
        known = self._known_lengths(steps_per_epoch, done)
        return max(known) if len(known) == len(self.triggers) else None


def as_trigger(
    trigger: TriggerLike, owner: str = "as_trigger", argument: str = "trigger"
) -> Trigger:
    """Return a trigger as it is, an int as `AfterEpochs` and a callable as `When`.

    Args:
        trigger: Any of these.
        owner: Str, in whose name errors are raised.
        argument: Str, the argument of `owner` that errors name.

    Raises:
        TypeError: for anything else.
        ValueError: for an int that is not positive.
    """
    if isinstance(trigger, Trigger):
        return trigger
    try:
        if is_int(trigger):
            return AfterEpochs(int(trigger))
        if callable(trigger) and not isinstance(trigger, (type, keras.Layer)):
            return When(trigger)
    except (ArgumentError, ArgumentTypeError) as error:
        raise error.of(owner, argument) from error
    raise ArgumentTypeError(
        owner,
        argument,
        "be a trigger of keras_freeze.schedules (AfterEpochs, AfterSteps, OnPlateau), an int "
        "(epochs), or a callable (logs) -> bool",
        value=trigger,
    )


def what_fired(trigger: Trigger, state: State) -> str:
    """Return in words what has ended a phase: of triggers joined by `|`, those that have fired.

    Example:
        >>> what_fired(AfterEpochs(3) | AfterSteps(8), [1, 8])
        'after 8 steps'
    """
    if not isinstance(trigger, AnyOf):
        return trigger.describe()
    pairs = zip(trigger.triggers, state, strict=True)
    return " and ".join(what_fired(part, own) for part, own in pairs if part.fired(own))


def every_trigger(trigger: Trigger | None) -> Iterator[Trigger]:
    """Yield the simple triggers that a trigger consists of; none for None."""
    if isinstance(trigger, _Combined):
        for part in trigger.triggers:
            yield from every_trigger(part)
    elif trigger is not None:
        yield trigger


def _parts(trigger: TriggerLike, kind: type[_Combined]) -> tuple[TriggerLike, ...]:
    return trigger.triggers if isinstance(trigger, kind) else (trigger,)
