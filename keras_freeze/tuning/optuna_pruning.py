"""Ask a study's pruner where a phase of a trial's schedule has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_freeze.callbacks import FreezeScheduler
from keras_freeze.checks import counted
from keras_freeze.keras_internals.callback_list import move_to_end, sibling_callbacks


class Pruning(keras.callbacks.Callback):
    """Reports each epoch to a trial, and ends the fit where a phase has ended and it is pruned.

    Args:
        trial: `optuna.Trial`.
        objective: KerasTuner's `Objective`.
    """

    rank_at_end = 2  # see `callback_list.move_to_end`; behind the `Recorder`

    def __init__(self, trial: Any, objective: Any) -> None:
        super().__init__()
        self._trial = trial
        self._objective = objective
        self._schedule: FreezeScheduler | None = None
        self._phase: int | None = None
        self._epochs = 0

    def set_model(self, model: keras.Model) -> None:
        """Store the model, move behind the schedule, and find it: its phases count."""
        super().set_model(model)
        move_to_end(self)
        kinds = (other for other in sibling_callbacks(self) if isinstance(other, FreezeScheduler))
        self._schedule = next(kinds, None)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """End the fit if a phase has ended since the last epoch began, and the trial is pruned."""
        if self._has_ended() and self._epochs and self._trial.should_prune():
            from optuna import TrialPruned

            raise TrialPruned(f"pruned after {counted(self._epochs, 'epoch')}")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Report an epoch."""
        if self._objective.has_value(logs or {}):
            self._trial.report(float(self._objective.get_value(logs)), self._epochs)
            self._epochs += 1  # over all fits of a trial

    def _has_ended(self) -> bool:
        status = None if self._schedule is None else self._schedule.phase_status()
        if self._schedule is None or status is None or status.count == 1:
            return True
        before, self._phase = self._phase, status.index
        is_adaptive = status.count is None
        return not is_adaptive and status.index != before


def is_pruned(error: Exception) -> bool:
    """Tell whether an error says that a trial is pruned."""
    from optuna import TrialPruned

    return isinstance(error, TrialPruned)
