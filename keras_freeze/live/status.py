"""What a live view shows, as values."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_freeze.schedules import Moment

_START = Moment(0)


class GroupState(enum.Enum):
    """What a layer group does at present; the value says it in words."""

    TRAINS = "trains"
    IN_PART = "trains in part"
    FROZEN = "frozen"


class FitState(enum.Enum):
    """What a fit does at present."""

    RUNNING = enum.auto()
    DONE = enum.auto()
    STOPPED = enum.auto()
    INTERRUPTED = enum.auto()


@dataclasses.dataclass(frozen=True)
class GroupStatus:
    """A layer group at present.

    Attributes:
        label: Str, its name as it is shown.
        params: Int, its parameters.
        state: `GroupState`.
        rate: Float, its learning rate; None where it is frozen.
        is_multiple: Bool, whether the rate is a multiple of the compiled one, where the optimizer
            has no single rate. Defaults to False.
    """

    label: str
    params: int
    state: GroupState
    rate: float | None
    is_multiple: bool = False


@dataclasses.dataclass(frozen=True)
class PhaseStatus:
    """The present phase of a schedule.

    Attributes:
        groups: Tuple of `GroupStatus`, from input to head.
        index: Int, 0-based; -1 before the first phase.
        count: Int, how many phases there are; None where that is decided during the fit.
        ends: Str, what ends it, as in "after 2 epochs".
        end: `Moment` when it ends; None where that depends on the metrics.
        waits_for: Str, the metrics that it depends on; "" where `end` is known.
        note: Str, what else there is to say, such as the freeze depth of an adaptive schedule.
        may_end_early: Bool, whether the schedule may end the fit before its last epoch.
    """

    groups: tuple[GroupStatus, ...]
    index: int
    count: int | None
    ends: str
    end: Moment | None
    waits_for: str = ""
    note: str = ""
    may_end_early: bool = False


@dataclasses.dataclass(frozen=True)
class Curve:
    """A metric over the epochs that are done.

    Attributes:
        name: Str, the metric.
        epochs: Tuple of int, 0-based.
        training: Tuple of float, one for each epoch; NaN where there is none.
        validation: The same for validation.
    """

    name: str
    epochs: tuple[int, ...]
    training: tuple[float, ...]
    validation: tuple[float, ...]

    @property
    def has_validation(self) -> bool:
        """Whether there is a value of validation."""
        return not all(map(math.isnan, self.validation))


@dataclasses.dataclass(frozen=True)
class Status:
    """A fit at a moment.

    Attributes:
        model: Str, the name of the model.
        state: `FitState`.
        now: `Moment`: the present epoch, and the batches of it that are done. Between two epochs
            it is the beginning of the next.
        first: Int, 0-based, the epoch that the fit began with.
        epochs: Int, the last epoch's number as Keras prints it.
        steps: Int, batches in an epoch; None if not known.
        seconds: Float, the time since the fit began.
        groups: Tuple of `GroupStatus`, from input to head.
        phase: `PhaseStatus`; None without a schedule.
        phase_left_s: Float, about how many seconds are left in the phase; None if not known.
        fit_left_s: Float, about how many seconds are left in the fit; None if not known.
        may_end_early: Bool, whether the fit may end before its last epoch.
        curves: Tuple of `Curve`.
        transitions: Tuple of float, the epochs done when a phase began, but for the first.
        cache: Str, what the prefix cache does; "" without one.
        log: Tuple of str, what was said so far, oldest first.
    """

    model: str
    state: FitState = FitState.RUNNING
    now: Moment = _START
    first: int = 0
    epochs: int = 1
    steps: int | None = None
    seconds: float = 0.0
    groups: tuple[GroupStatus, ...] = ()
    phase: PhaseStatus | None = None
    phase_left_s: float | None = None
    fit_left_s: float | None = None
    may_end_early: bool = False
    curves: tuple[Curve, ...] = ()
    transitions: tuple[float, ...] = ()
    cache: str = ""
    log: tuple[str, ...] = ()


# What stands in the logs and is no metric, beside names with a slash.
_NO_METRICS = {
    "candidate",
    "freeze_depth",
    "frozen_groups",
    "learning_rate",
    "lr",
    "non_trainable_params",
    "phase",
    "trainable_params",
}


class Metrics:
    """The metrics of the epochs that are done.

    Args:
        name: Str, the metric to show beside the loss; None to choose one.

    Example:
        >>> metrics = Metrics(None)
        >>> metrics.add(0, {"loss": 2.0, "acc": 0.5, "val_loss": 2.5, "val_acc": 0.4})
        >>> [(curve.name, curve.training, curve.validation) for curve in metrics.curves()]
        [('loss', (2.0,), (2.5,)), ('acc', (0.5,), (0.4,))]
    """

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._epochs: list[int] = []
        self._values: list[dict[str, float]] = []

    @property
    def epochs_done(self) -> int:
        """The number of the last epoch that is done, as Keras prints it; 0 before the first."""
        return self._epochs[-1] + 1 if self._epochs else 0

    def add(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Add an epoch (0-based)."""
        self._epochs.append(epoch)
        numbers = {name: _number(value) for name, value in logs.items()}
        self._values.append({n: number for n, number in numbers.items() if number is not None})

    def add_history(self, epochs: Sequence[int], history: Mapping[str, Sequence[Any]]) -> None:
        """Add the epochs that Keras's history has, as after a resume."""
        for n, epoch in enumerate(epochs):
            self.add(epoch, {name: v[n] for name, v in history.items() if n < len(v)})

    def curves(self) -> tuple[Curve, ...]:
        """Return the loss and one more metric, as far as there are any."""
        known = {name for values in self._values for name in values}
        return tuple(
            Curve(name, tuple(self._epochs), self._series(name), self._series(f"val_{name}"))
            for name in dict.fromkeys(("loss", self._chosen()))
            if name in known or f"val_{name}" in known
        )

    def _series(self, name: str) -> tuple[float, ...]:
        return tuple(values.get(name, math.nan) for values in self._values)

    def _chosen(self) -> str:
        """Return the metric that was asked for, else accuracy, else one with validation, or any."""
        if self._name is not None:
            return self._name
        names = dict.fromkeys(name for values in self._values for name in values)
        able = []
        for name in names:
            is_metric = name not in _NO_METRICS and "/" not in name
            if is_metric and name != "loss" and not name.startswith("val_"):
                able.append(name)
        if "accuracy" in able:
            return "accuracy"
        with_validation = [name for name in able if f"val_{name}" in names]
        return [*with_validation, *able, "loss"][0]


def _number(value: Any) -> float | None:
    """Return a value of the logs as a float; None if it is no single number."""
    if isinstance(value, (bool, str)) or value is None:
        return None
    try:
        array = np.asarray(value, dtype="float64")
    except (TypeError, ValueError):
        return None
    return float(array) if array.ndim == 0 else None
