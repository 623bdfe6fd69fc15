"""KerasTuner's hyperparameters on a trial of Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_freeze.checks import ArgumentError


class OptunaParameters:
    """KerasTuner's `hp`, as far as build functions use it, on a trial of Optuna.

    There are no scopes, and defaults are not used: the first values are those of Optuna.

    Args:
        trial: `optuna.Trial`.
    """

    def __init__(self, trial: Any) -> None:
        self._trial = trial
        self._fixed: dict[str, Any] = {}

    def Int(
        self,
        name: str,
        min_value: int,
        max_value: int,
        step: int | None = None,
        sampling: str = "linear",
        default: int | None = None,
    ) -> int:
        """Return an int from a range, both ends included."""
        if name in self._fixed:
            return int(self._fixed[name])
        is_log = _is_log(name, step, sampling)
        return int(self._trial.suggest_int(name, min_value, max_value, step=step or 1, log=is_log))

    def Float(
        self,
        name: str,
        min_value: float,
        max_value: float,
        step: float | None = None,
        sampling: str = "linear",
        default: float | None = None,
    ) -> float:
        """Return a float from a range."""
        if name in self._fixed:
            return float(self._fixed[name])
        is_log = _is_log(name, step, sampling)
        return float(self._trial.suggest_float(name, min_value, max_value, step=step, log=is_log))

    def Choice(
        self, name: str, values: Sequence[Any], ordered: bool = False, default: Any = None
    ) -> Any:
        """Return one of several values."""
        if name in self._fixed:
            return self._fixed[name]
        return self._trial.suggest_categorical(name, values)

    def Boolean(self, name: str, default: bool = False) -> bool:
        """Return True or False."""
        return bool(self.Choice(name, [False, True]))

    def Fixed(self, name: str, value: Any) -> Any:
        """Return a value, which counts for this name from now on."""
        self._fixed[name] = value
        self._trial.set_user_attr(name, value)
        return value


def _is_log(name: str, step: float | None, sampling: str | None) -> bool:
    """Tell whether a range is sampled by the logarithm; refuse what Optuna can't do."""
    if sampling not in (None, "linear", "log") or (sampling == "log" and step is not None):
        raise ArgumentError(
            "hp",
            "sampling",
            'be "linear", or "log" without a step, under Optuna',
            received=f"sampling={sampling!r}, step={step!r}, for {name!r}",
        )
    return sampling == "log"
