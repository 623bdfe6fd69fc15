"""Record a trial's training: what trains when, how well, how fast, and the model at its best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_freeze.callbacks import FreezeScheduler, frozen_groups
from keras_freeze.engine import snapshot
from keras_freeze.groups import picture_of
from keras_freeze.keras_internals.callback_list import move_to_end, sibling_callbacks
from keras_freeze.model_picture import is_built
from keras_freeze.policies import Selection
from keras_freeze.reports import parameter_report
from keras_freeze.tuning import depth_in_force
from keras_freeze.tuning.kept_models import KeptModels
from keras_freeze.tuning.trial_record import Execution, TrainedPart, TrialRecord


class Recorder(keras.callbacks.Callback):
    """Record one training of a trial, after the callbacks that may change what trains.

    Epochs are counted over all fits of a training, if there are several.

    Args:
        record: `TrialRecord` of the trial, which gets another `Execution`.
        folder: `pathlib.Path` of the trial, where the record is written after every epoch.
        kept: `KeptModels` of the trial.
        objective: KerasTuner's `Objective`.
        total_epochs: Int, for schedules that don't say how long the whole training is; None
            where a fit is the whole.
        check: Called with each schedule beside this callback and the model, before it begins.
    """

    rank_at_end = 1  # see `callback_list.move_to_end`

    def __init__(
        self,
        record: TrialRecord,
        folder: Path,
        kept: KeptModels,
        objective: Any,
        total_epochs: int | None = None,
        check: Callable[[FreezeScheduler, keras.Model], None] | None = None,
    ) -> None:
        super().__init__()
        self.record = record
        self.folder = folder
        self.kept = kept
        self.objective = objective
        self.total_epochs = total_epochs
        self.execution = Execution()
        record.executions.append(self.execution)
        self._check = check
        self._lent: list[FreezeScheduler] = []
        self._flags: tuple[bool, ...] | None = None
        self._begun: float | None = None

    def set_model(self, model: keras.Model) -> None:
        """Store the model, and tell schedules how long the whole training is."""
        super().set_model(model)
        move_to_end(self)
        depth = depth_in_force.depth_of(model)
        self.record.freeze_depth = None if depth is None else depth.value
        for other in sibling_callbacks(self):
            if not isinstance(other, FreezeScheduler):
                continue
            if self._check is not None:
                self._check(other, model)
            if other.total_epochs is None and self.total_epochs is not None:
                other.total_epochs = self.total_epochs
                self._lent.append(other)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record what trains, and the time."""
        if not self.execution.epoch_s:
            self.execution.initial_epoch = epoch
        self.execution.is_traced.append(self._record_part())
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record how long the epoch took and what came out; keep the model if it is the best."""
        execution, logs = self.execution, logs or {}
        if self._begun is None:  # a custom loop, which calls no `on_epoch_begin`
            self.on_epoch_begin(epoch)
        elapsed_s = time.perf_counter() - (self._begun or 0.0)
        execution.is_traced[-1] |= self._record_part()
        for name, value in logs.items():
            execution.history.setdefault(name, []).append(_plain(value))
        if self.objective.has_value(logs):
            self._compare(float(self.objective.get_value(logs)))
            if "freeze_depth" in logs and execution.best_epoch == execution.end:
                self.record.freeze_depth = int(logs["freeze_depth"])  # which training has found
        elif self.kept.score is None:
            # What counts is returned after training, so that the last epoch is the one.
            self.kept.best = self._captured()
        execution.epoch_s.append(elapsed_s)
        self._begun = None
        self.record.save(self.folder)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Keep the model as it is in the end, where another trial may resume."""
        for other in self._lent:
            other.total_epochs = None
        self._lent = []
        if self.total_epochs is not None:
            self.kept.ends[len(self.record.executions) - 1 :] = [self._captured()]

    def _compare(self, score: float) -> None:
        execution, kept = self.execution, self.kept
        if math.isnan(score):
            return
        if execution.score is None or self.objective.better_than(score, execution.score):
            execution.score, execution.best_epoch = score, execution.end
        if kept.score is None or self.objective.better_than(score, kept.score):
            kept.score, kept.best = score, self._captured()

    def _captured(self) -> snapshot.State | None:
        has_optimizer = getattr(self.model, "optimizer", None) is not None
        return snapshot.capture_all(self.model) if has_optimizer else None

    def _record_part(self) -> bool:
        """Record what trains if that has changed, which makes Keras trace its step again."""
        model = self.model
        if not is_built(model):  # which Keras does in the first step
            return True
        flags = tuple(bool(variable.trainable) for variable in model.weights)
        if flags == self._flags:
            return False
        self._flags = flags
        self.execution.parts.append(trained_part(model, self.execution.end))
        return True


def trained_part(model: keras.Model, epoch: int) -> TrainedPart:
    """Return what a model trains from an epoch (0-based) on."""
    report = parameter_report(model)
    return TrainedPart(
        epoch,
        frozen_groups(picture_of(model, None, depth_in_force.backbone_of(model)), Selection()),
        report.trainable_params,
        report.non_trainable_params,
        report.trainable_bytes,
        report.non_trainable_bytes,
    )


def _plain(value: Any) -> Any:
    """Return a metric as a number, or as lists of them where a metric has several."""
    is_tensor = keras.ops.is_tensor(value)
    return np.asarray(keras.ops.convert_to_numpy(value) if is_tensor else value).tolist()
