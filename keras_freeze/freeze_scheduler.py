"""The general callback: run a freeze schedule while `fit` runs.

It is a thin driver: the schedule says what is due, the engine does it, one line reports it.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_freeze import structure, wording
from keras_freeze.flags import BatchNormMode, Flags, check_batch_norm, phase_flags
from keras_freeze.groups import Groups, LayerGroup, layer_groups
from keras_freeze.messages import call_of, is_int
from keras_freeze.recompile import transition
from keras_freeze.reports import parameter_counts
from keras_freeze.schedules import FreezeSchedule, Phase, Rates, check_rates, multipliers
from keras_freeze.selections import Selection, everything_in


@dataclasses.dataclass
class Run:
    """The state of one `fit`: names and numbers, never layers.

    Attributes:
        schedule: What is frozen when.
        epochs: Int, the last epoch's number as Keras prints it.
        phase: Index of the present phase; None before the first epoch.
        kept: Groups that earlier training thawed and this one must not freeze again.
        frozen: Names of the groups that don't train at present.
        multipliers: Learning-rate multiplier by group at present.
        counts: Trainable and non-trainable parameters at present.
    """

    schedule: FreezeSchedule
    epochs: int
    phase: int | None = None
    kept: frozenset[str] = frozenset()
    frozen: tuple[str, ...] = ()
    multipliers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    counts: tuple[int, int] = (0, 0)


class FreezeScheduler(keras.callbacks.Callback):
    """Freeze and thaw parts of a model while it trains, by any schedule.

    At the beginning of an epoch in which a phase begins, the flags are set and the model is
    recompiled with all its training state; a line says what changed. The flags stay as the
    last phase had them; group rates end with the `fit`.

    Args:
        schedule: `keras_freeze.schedules.FreezeSchedule`, or a mapping from epoch (0-based) to
            what is frozen from then on: an int (layer groups from the input), a group's name
            or names, a freeze policy or callable, a `schedules.Phase`, or None for nothing.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        rates: Learning rates of the groups as multiples of the compiled one, for phases that
            have none of their own: a mapping from group to multiplier, a factor between
            neighbouring groups, `"default"`, or None (default) for the same rate everywhere.
        batch_norm: Mode for `BatchNormalization` layers of the pretrained part, for schedules
            given as a mapping: `"frozen"` (default), `"follow"`, `"statistics"` or `"train"`.
        total_epochs: Int, the epochs of the whole training when it is split over several fits.
            Defaults to those of the fit.
        log_details: Bool. Add `phase`, `frozen_groups` (a count) and `learning_rate/<group>`
            to the logs, besides `trainable_params` and `non_trainable_params`. Defaults to
            False, since Keras prints every log.
        verbose: 0 or 1, whether to print a line at each transition. Defaults to 1.

    Raises:
        TypeError: if the schedule is of another type.
        ValueError: if an argument is invalid; at the start of training, if a name is unknown or
            a phase leaves nothing to train.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(1)]
        ... )
        >>> model.compile(keras.optimizers.SGD(1.0), "mse")
        >>> callback = FreezeScheduler({0: "low", 1: None})
        >>> x, y = np.ones((8, 4)), np.ones((8, 1))
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
        Epoch 1/2: head trains, low is frozen. Parameters: 4 trainable, 15 frozen. Learning rate: 1.
        Epoch 2/2: low thaws. Parameters: 19 trainable, 0 frozen. Learning rate: 1.
        >>> history.history["trainable_params"]
        [4, 19]
    """

    def __init__(
        self,
        schedule: FreezeSchedule | Mapping[int, Any],
        *,
        groups: Groups | None = None,
        rates: Rates = None,
        batch_norm: BatchNormMode = "frozen",
        total_epochs: int | None = None,
        log_details: bool = False,
        verbose: int = 1,
    ):
        super().__init__()
        self.schedule = schedule
        self.groups = groups
        self.rates = rates
        self.batch_norm = batch_norm
        self.total_epochs = total_epochs
        self.log_details = log_details
        self.verbose = verbose
        self._run: Run | None = None
        self._siblings: Sequence[keras.callbacks.Callback] = ()
        self._check_arguments()

    def _check_arguments(self) -> None:
        owner = type(self).__name__
        check_rates(owner, self.rates)
        check_batch_norm(owner, self.batch_norm)
        epochs = self.total_epochs
        if epochs is not None and not is_int(epochs):
            raise TypeError(
                f"{owner}(total_epochs=...) must be an int. Received: total_epochs={epochs!r}."
            )
        if epochs is not None and epochs < 1:
            raise ValueError(
                f"{owner}(total_epochs=...) must be at least 1. Received: total_epochs={epochs}."
            )
        if self.verbose not in (0, 1):
            raise ValueError(
                f"{owner}(verbose=...) must be 0 or 1. Received: verbose={self.verbose!r}."
            )
        self._check_schedule()

    def _check_schedule(self) -> None:
        self._plan((), 1)

    def _plan(self, names: Sequence[str], epochs: int) -> FreezeSchedule:
        """Return the schedule for a model with these groups and a training of this length."""
        if isinstance(self.schedule, FreezeSchedule):
            return self.schedule
        if not isinstance(self.schedule, Mapping):
            raise TypeError(
                f"{type(self).__name__}(schedule=...) must be a FreezeSchedule or a mapping from "
                f"epoch to what is frozen. Received: schedule={self.schedule!r}."
            )
        return FreezeSchedule(
            {
                epoch: value if isinstance(value, Phase) else Phase(value, None, self.batch_norm)
                for epoch, value in self.schedule.items()
            }
        )

    def _groups_to_keep(self, groups: Sequence[LayerGroup], epoch: int) -> frozenset[str]:
        """Return the groups that are not to be frozen again by a fit that starts at `epoch`."""
        return frozenset()

    def set_model(self, model: keras.Model) -> None:
        """Take the model, and note which callbacks stand beside this one."""
        super().set_model(model)
        self._siblings = structure.sibling_callbacks(self)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Make the plan for this fit, and check that it can be carried out."""
        self._check_alone()
        groups = layer_groups(self.model, self.groups)
        fit_epochs = self.params["epochs"]
        names = tuple(group.name for group in groups)
        schedule = self._plan(names, self.total_epochs or fit_epochs)
        for epoch, phase in schedule.phases.items():
            self._check_phase(epoch, phase, groups)
        self._warn_of_late_phases(schedule, self.total_epochs or fit_epochs)
        self._run = Run(schedule, fit_epochs)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Make the transition that is due."""
        run = self._run
        if run is None or (index := run.schedule.index_at(epoch)) == run.phase:
            return
        begins, run.phase = run.phase is None, index
        if begins:
            self._warn_of_early_stopping(run, epoch)
        groups = layer_groups(self.model, self.groups)
        phase = run.schedule.at(epoch)
        if phase is None:
            run.frozen = _frozen_groups(self.model, groups, Selection())
            run.counts = parameter_counts(self.model)
            return
        if begins:
            run.kept = self._groups_to_keep(groups, epoch)
        before = None if begins else run.frozen
        flags_before = [variable.trainable for variable in self.model.weights]
        self._enter(run, phase, groups)
        if self.verbose:
            is_changed = flags_before != [variable.trainable for variable in self.model.weights]
            change = wording.change(run.multipliers, before, run.frozen, is_changed)
            rate = current_learning_rate(self.model)
            numbers = wording.numbers(run.counts, run.multipliers, run.frozen, rate)
            print(f"Epoch {epoch + 1}/{run.epochs}: {change}. {numbers}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the parameter counts to the logs."""
        run = self._run
        if run is None or logs is None:
            return
        logs["trainable_params"], logs["non_trainable_params"] = run.counts
        if self.log_details:
            logs["phase"] = run.phase
            logs["frozen_groups"] = len(run.frozen)
            rate = current_learning_rate(self.model)
            if rate is not None:  # a MultiOptimizer has none to give
                for name, multiplier in run.multipliers.items():
                    logs[f"learning_rate/{name}"] = rate * multiplier * (name not in run.frozen)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leave the flags as they are and take the group rates back."""
        if self._run is not None and self._run.phase is not None:
            transition(self.model, Flags(), {})
        self._run, self._siblings = None, ()

    def __repr__(self) -> str:
        return call_of(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model and the running fit out of copies: they belong to the original."""
        return {**vars(self), "_model": None, "_run": None, "_siblings": (), "params": None}

    def _check_alone(self) -> None:
        others = [other for other in self._siblings if isinstance(other, FreezeScheduler)]
        if others:
            raise ValueError(
                f"fit(callbacks=...) must hold one {FreezeScheduler.__name__} or GradualUnfreeze "
                f"at most. Received: {self!r} and {others[0]!r}. Put both plans into one."
            )

    def _rates_of(self, phase: Phase) -> Rates:
        return self.rates if phase.rates is None else phase.rates

    def _check_phase(self, epoch: int, phase: Phase, groups: tuple[LayerGroup, ...]) -> None:
        names = [group.name for group in groups]
        multipliers(self._rates_of(phase), names, owner=type(self).__name__)
        try:
            frozen = phase.policy(self.groups).select(self.model)
        except (TypeError, ValueError) as error:
            error.add_note(f"In the phase at epoch {epoch} of {type(self).__name__}(schedule=...).")
            raise
        flags = phase_flags(self.model, frozen, phase.batch_norm, groups)
        if not any(trains for _, trains in flags.variables):
            raise ValueError(
                f"{type(self).__name__}(schedule=...) must leave something to train. Received: "
                f"a phase at epoch {epoch} that freezes all of model {self.model.name!r}. "
                f"Leave out a group of: {', '.join(names)}."
            )

    def _enter(self, run: Run, phase: Phase, groups: tuple[LayerGroup, ...]) -> None:
        names = [group.name for group in groups]
        frozen = _without(phase.policy(self.groups).select(self.model), groups, run.kept)
        by_group = multipliers(self._rates_of(phase), names)
        by_variable = {id(v): by_group[group.name] for group in groups for v in group.variables}
        flags = phase_flags(self.model, frozen, phase.batch_norm, groups)
        transition(self.model, flags, by_variable)
        run.frozen = _frozen_groups(self.model, groups, frozen)
        run.multipliers = by_group
        run.counts = parameter_counts(self.model)

    def _warn_of_late_phases(self, schedule: FreezeSchedule, total: int) -> None:
        late = [epoch for epoch in schedule.starts if epoch >= total]
        if late:
            warnings.warn(
                f"{type(self).__name__}: the phase at epoch {late[0]} is not reached in "
                f"{total} epochs. Train longer or begin it earlier; where training is split "
                "over several fits, pass total_epochs=.",
                stacklevel=2,
            )

    def _warn_of_early_stopping(self, run: Run, first_epoch: int) -> None:
        reached = [epoch for epoch in run.schedule.starts if epoch < run.epochs]
        for callback in self._siblings:
            if isinstance(callback, keras.callbacks.EarlyStopping) and reached:
                watched_from = max(callback.start_from_epoch, first_epoch)
                earliest = watched_from + max(callback.patience, 1)
                if earliest < reached[-1]:
                    warnings.warn(
                        f"EarlyStopping may end training at epoch {earliest}, before the last "
                        f"phase of {type(self).__name__} begins at epoch {reached[-1]}. Pass "
                        f"start_from_epoch={reached[-1]} to EarlyStopping to let it begin.",
                        stacklevel=2,
                    )


def current_learning_rate(model: keras.Model) -> float | None:
    """Return the learning rate a model trains at now, None if its optimizer has no single one."""
    try:
        return float(
            keras.ops.convert_to_numpy(keras.ops.cast(model.optimizer.learning_rate, "float32"))
        )
    except AttributeError:  # MultiOptimizer
        return None


def _without(selection: Selection, groups: Sequence[LayerGroup], kept: frozenset[str]) -> Selection:
    keep = [group for group in groups if group.name in kept]
    variables = {id(v) for group in keep for v in group.variables}
    layers = {id(layer) for group in keep for layer in group.layers}
    return Selection(selection.variables - variables, selection.layers - layers)


def _frozen_groups(
    model: keras.Model, groups: Sequence[LayerGroup], frozen: Selection
) -> tuple[str, ...]:
    able = everything_in(model).variables
    variables = {group.name: {id(v) for v in group.variables} & able for group in groups}
    training = {id(v) for v in model.trainable_variables}
    return tuple(
        name
        for name, own in variables.items()
        if own <= frozen.variables or own.isdisjoint(training)
    )
