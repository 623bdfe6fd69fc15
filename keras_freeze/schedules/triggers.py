"""Triggers: what ends a phase. Pure: a trigger is a value, its state is plain data.

A trigger is asked after every step and every epoch of its phase, and says whether the phase is
over. It keeps nothing itself: the state goes in and comes out, so that it can be backed up, and
one trigger can serve several phases and several fits. Triggers combine with `|` (whichever
comes first) and `&` (only where both hold at the same time).
"""

from __future__ import annotations

import abc
import dataclasses
import inspect
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import keras
import numpy as np

from keras_freeze.checks import did_you_mean, is_int

State = Any
Logs = Mapping[str, Any]
Mode = Literal["auto", "min", "max"]

_LOWER = (
    *("loss", "error", "mse", "mae", "rmse", "mape", "msle"),
    *("crossentropy", "divergence", "perplexity", "hinge", "poisson", "logcosh"),
)
_HIGHER = frozenset(
    {"acc", "accuracy", "auc", "precision", "recall", "f1", "iou", "dice", "r2", "bleu", "rouge"}
)


class Trigger(abc.ABC):
    """Base class: a value that says when a phase is over.

    To add one, write a frozen dataclass with `fired` and what it needs of `begin`,
    `after_steps` and `after_epoch`. A state is None, a bool, a number, a string, or a list
    of these.
    """

    #: Whether it follows from the number of epochs and steps alone, whatever the logs say.
    #: Such a one has a `length`, and once it has fired it stays so.
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

    @abc.abstractmethod
    def fired(self, state: State) -> bool:
        """Tell whether the phase is over."""

    def length(self, steps_per_epoch: int | None, done: int = 0) -> int | None:
        """Return after how many batches it fires at the latest, None where that can't be known.

        Args:
            steps_per_epoch: Int, batches in an epoch; None if not known.
            done: Int, batches of the first epoch that were done before the phase began.
        """
        return None

    def soonest(self) -> Trigger:
        """Return a trigger by the calendar that never fires later, whatever the logs say."""
        return self if self.is_calendar else AfterSteps(1)

    def __or__(self, other: TriggerLike) -> Trigger:
        """Fire as soon as one of the two does."""
        return AnyOf((*_parts(self, AnyOf), *_parts(as_trigger(other), AnyOf)))

    def __ror__(self, other: TriggerLike) -> Trigger:
        """Fire as soon as one of the two does, a number or callable on the left."""
        return as_trigger(other) | self

    def __and__(self, other: TriggerLike) -> Trigger:
        """Fire when both hold."""
        return AllOf((*_parts(self, AllOf), *_parts(as_trigger(other), AllOf)))

    def __rand__(self, other: TriggerLike) -> Trigger:
        """Fire when both hold, a number or callable on the left."""
        return as_trigger(other) & self


TriggerLike = Trigger | int | Callable[[Logs], bool]


@dataclasses.dataclass(frozen=True)
class AfterEpochs(Trigger):
    """End a phase after so many epochs.

    An epoch in the middle of which the phase began counts as one.

    Args:
        epochs: Int from 1.

    Raises:
        ValueError: if it is not an int from 1.

    Example:
        >>> AfterEpochs(3) | AfterSteps(1000)
        AnyOf(triggers=(AfterEpochs(epochs=3), AfterSteps(steps=1000)))
    """

    epochs: int
    is_calendar = True

    def __post_init__(self) -> None:
        check_count("AfterEpochs", "epochs", self.epochs)

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
        steps: Int from 1, in batches.

    Raises:
        ValueError: if it is not an int from 1.
    """

    steps: int
    is_calendar = True

    def __post_init__(self) -> None:
        check_count("AfterSteps", "steps", self.steps)

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
    """End a phase when a logged value has stopped improving.

    The first value of a phase is the one to improve on; each phase starts anew. A value that
    is not finite is no improvement.

    Args:
        monitor: Str, the log to watch at the end of each epoch. Defaults to `"val_loss"`.
        patience: Int from 1, in epochs without improvement. Defaults to 3.
        min_delta: Float from 0. Only a gain of more than that is one. Defaults to 0.
        mode: `"min"`, `"max"`, or `"auto"` (default), which goes by the log's name.
        cooldown: Int from 0, in epochs from the beginning of the phase that count as improving
            whatever they bring. Defaults to 0.

    Raises:
        ValueError: if an argument is invalid, or if the mode can't be told from the name; in a
            fit, if there is no such log.

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
            raise ValueError(
                "OnPlateau(monitor=...) must be the name of a log. "
                f'Received: monitor={self.monitor!r}. Write "val_loss", say.'
            )
        check_count("OnPlateau", "patience", self.patience)
        check_count("OnPlateau", "cooldown", self.cooldown, lowest=0)
        number = isinstance(self.min_delta, numbers.Real) and not isinstance(self.min_delta, bool)
        if not number or not math.isfinite(self.min_delta) or self.min_delta < 0:
            raise ValueError(
                "OnPlateau(min_delta=...) must be a number from 0. "
                f"Received: min_delta={self.min_delta!r}."
            )
        direction("OnPlateau", self.monitor, self.mode)

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
        """Tell whether the value has stalled."""
        return bool(state[1] >= self.patience)

    def soonest(self) -> Trigger:
        """Return the epochs of a value that never improves on its first."""
        return AfterEpochs(max(1, self.cooldown) + self.patience)


@dataclasses.dataclass(frozen=True)
class When(Trigger):
    """End a phase after an epoch for whose logs a function says yes.

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
            raise TypeError(
                "When(condition=...) must be a callable (logs) -> bool. "
                f"Received: condition={self.condition!r}."
            )
        try:
            inspect.signature(self.condition).bind({})
        except TypeError as error:
            raise TypeError(
                "When(condition=...) must take one argument, the logs of the epoch. "
                f"Received: condition={self.condition!r}."
            ) from error
        except ValueError:  # some builtins have no signature
            pass

    def begin(self) -> State:
        """Return that it has not fired."""
        return False

    def after_epoch(self, state: State, logs: Logs) -> State:
        """Ask the function."""
        answer = self.condition(dict(logs))
        if not isinstance(answer, (bool, np.bool_)):
            raise TypeError(
                f"When(condition=...) must return True or False. Received: {answer!r} for logs "
                f"{dict(logs)!r}."
            )
        return bool(answer)

    def fired(self, state: State) -> bool:
        """Tell what the function said last."""
        return bool(state)

    def soonest(self) -> Trigger:
        """Return the end of the first epoch."""
        return AfterEpochs(1)


@dataclasses.dataclass(frozen=True)
class _Combined(Trigger):
    triggers: tuple[Trigger, ...]

    def __post_init__(self) -> None:
        name = type(self).__name__
        is_sequence = isinstance(self.triggers, Sequence) and not isinstance(self.triggers, str)
        if not is_sequence or not self.triggers:
            raise ValueError(
                f"{name}(triggers=...) must be a sequence of triggers. "
                f"Received: triggers={self.triggers!r}."
            )
        object.__setattr__(self, "triggers", tuple(map(as_trigger, self.triggers)))

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
        """Return the same of what the triggers do at best."""
        return type(self)(tuple(trigger.soonest() for trigger in self.triggers))

    def _known_lengths(self, steps_per_epoch: int | None, done: int) -> list[int]:
        lengths = (trigger.length(steps_per_epoch, done) for trigger in self.triggers)
        return [length for length in lengths if length is not None]


class AnyOf(_Combined):
    """End a phase as soon as one of several triggers fires; written `a | b`.

    Args:
        triggers: Sequence of triggers, ints (epochs) and callables.
    """

    def fired(self, state: State) -> bool:
        """Tell whether one has fired."""
        return any(self._all_fired(state))

    def length(self, steps_per_epoch: int | None, done: int = 0) -> int | None:
        """Return the shortest length that is known."""
        known = self._known_lengths(steps_per_epoch, done)
        return min(known) if known else None


class AllOf(_Combined):
    """End a phase when several triggers hold at the same time; written `a & b`.

    A plateau holds until the value improves again, a count for good, a callable that said yes
    until it is asked again, at the end of the next epoch.

    Args:
        triggers: Sequence of triggers, ints (epochs) and callables.
    """

    def fired(self, state: State) -> bool:
        """Tell whether all hold."""
        return all(self._all_fired(state))

    def length(self, steps_per_epoch: int | None, done: int = 0) -> int | None:
        """Return the longest length, if all are known."""
        known = self._known_lengths(steps_per_epoch, done)
        return max(known) if len(known) == len(self.triggers) else None


def as_trigger(trigger: TriggerLike) -> Trigger:
    """Return a trigger as it is, an int as `AfterEpochs` and a callable as `When`.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(trigger, Trigger):
        return trigger
    if is_int(trigger):
        return AfterEpochs(int(trigger))
    if callable(trigger) and not isinstance(trigger, (type, keras.Layer)):
        return When(trigger)
    raise TypeError(
        "A trigger must be one of keras_freeze.schedules (AfterEpochs, AfterSteps, OnPlateau), an "
        f"int (epochs), or a callable (logs) -> bool. Received: {trigger!r}."
    )


def every_trigger(trigger: Trigger | None) -> Iterator[Trigger]:
    """Yield the simple triggers of which a trigger is made; none of None."""
    if isinstance(trigger, _Combined):
        for part in trigger.triggers:
            yield from every_trigger(part)
    elif trigger is not None:
        yield trigger


def direction(owner: str, monitor: str, mode: str) -> Literal["min", "max"]:
    """Return whether a log is to fall or to rise; raise in the name of `owner` if unknown."""
    if mode not in get_args(Mode):
        raise ValueError(
            f'{owner}(mode=...) must be "auto", "min" or "max". Received: mode={mode!r}.'
        )
    if mode in ("min", "max"):
        return "min" if mode == "min" else "max"
    told = told_direction(monitor)
    if told is None:
        raise ValueError(
            f'{owner}(mode=...) must be "min" or "max" where the name does not tell which is '
            f"better. Received: monitor={monitor!r}, mode='auto'."
        )
    return told


def told_direction(monitor: str) -> Literal["min", "max"] | None:
    """Return whether a log is to fall or to rise by its name, None if that does not tell.

    Example:
        >>> told_direction("val_loss"), told_direction("val_accuracy"), told_direction("val_q")
        ('min', 'max', None)
    """
    words = monitor.lower().split("_")
    falls = any(word.startswith(_LOWER) or word.endswith(_LOWER) for word in words)
    if falls == (not _HIGHER.isdisjoint(words)):  # neither, or both
        return None
    return "min" if falls else "max"


def improves(value: float, best: float | None, min_delta: float, mode: str) -> bool:
    """Tell whether a value is better than the best so far; one that is not finite never is."""
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return value < best - min_delta if mode == "min" else value > best + min_delta


def monitored(owner: str, monitor: str, logs: Logs, argument: str = "monitor") -> float:
    """Return a log as a float; raise in the name of `owner` if there is none."""
    if monitor not in logs:
        is_unvalidated = not any(name.startswith("val_") for name in logs)
        advice = (
            "Pass validation_data= to fit, and validation_freq=1. "
            if monitor.startswith("val_") and is_unvalidated
            else did_you_mean(monitor, list(logs))
        )
        raise ValueError(
            f"{owner}({argument}=...) must name a log of this fit. Received: {monitor!r}. "
            f"{advice}Available logs: {', '.join(logs)}."
        )
    return float(logs[monitor])


def _parts(trigger: Trigger, kind: type[_Combined]) -> tuple[Trigger, ...]:
    return trigger.triggers if isinstance(trigger, kind) else (trigger,)


def check_count(owner: str, name: str, value: Any, lowest: int = 1) -> None:
    """Raise in the name of `owner` unless a value is an int from `lowest`."""
    if not is_int(value) or value < lowest:
        raise ValueError(
            f"{owner}({name}=...) must be an int from {lowest}. Received: {name}={value!r}."
        )
