"""The general callback: run a freeze schedule while `fit` runs.

It is a thin driver: the schedule says what is due, the engine does it, one line reports it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_freeze.callbacks import companions, fit_checks, resume_point, schedule_run
from keras_freeze.callbacks.schedule_run import Best, Run
from keras_freeze.checks import call_of, is_int
from keras_freeze.engine import optimizer_state
from keras_freeze.engine.transitions import transition
from keras_freeze.groups import Groups, LayerGroup, layer_groups
from keras_freeze.keras_internals.callback_list import sibling_callbacks
from keras_freeze.model_picture import GroupNames
from keras_freeze.policies.flags import BatchNormMode, check_batch_norm, phase_flags
from keras_freeze.prefix_cache import PrefixCache
from keras_freeze.schedules.as_dict import fingerprint
from keras_freeze.schedules.curves import Curve
from keras_freeze.schedules.phases import FreezeSchedule, Phase
from keras_freeze.schedules.previews import SchedulePreview, preview
from keras_freeze.schedules.progress import Progress, timeline
from keras_freeze.schedules.rates import Rates, check_rates
from keras_freeze.schedules.yaml_file import read


class FreezeScheduler(keras.callbacks.Callback):
    """Freeze and thaw parts of a model while it trains, by any schedule.

    Where a phase begins, the flags are set and the model is recompiled with all its training
    state; a line says what changed. The flags stay as the last phase had them; group rates end
    with the `fit`.

    Args:
        schedule: `keras_freeze.schedules.FreezeSchedule`, the path of its YAML file, or a
            mapping from epoch (0-based) to what is frozen from then on: an int (layer groups
            from the input), a group's name or names, a freeze policy or callable, a
            `schedules.Phase`, or None for nothing.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        rates: Learning rates of the groups as multiples of the compiled one, for phases that
            have none of their own: a mapping from group to multiplier, a factor between
            neighbouring groups, `"default"`, or None (default) for the same rate everywhere.
        batch_norm: Mode for `BatchNormalization` layers of the pretrained part, for schedules
            given as a mapping: `"frozen"` (default), `"follow"`, `"statistics"` or `"train"`.
        cache: Whether to compute what is frozen once, not in every epoch: `"auto"` (default)
            where that pays, True wherever it can be done, False, or a `PrefixCache` with
            arguments of your own. The results are the same.
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
        schedule: FreezeSchedule | Mapping[int, Any] | str | os.PathLike[str],
        *,
        groups: Groups | None = None,
        rates: Rates = None,
        batch_norm: BatchNormMode = "frozen",
        cache: bool | str | PrefixCache = "auto",
        total_epochs: int | None = None,
        log_details: bool = False,
        verbose: int = 1,
    ):
        super().__init__()
        self.schedule = schedule
        self.groups = groups
        self.rates = rates
        self.batch_norm = batch_norm
        self.cache = cache
        self.total_epochs = total_epochs
        self.log_details = log_details
        self.verbose = verbose
        self._run: Run | None = None
        self._siblings: Sequence[keras.callbacks.Callback] = ()
        self._cache: PrefixCache | None = None
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
        if not isinstance(self.cache, (bool, PrefixCache)) and self.cache != "auto":
            raise ValueError(
                f'{owner}(cache=...) must be "auto", True, False or a PrefixCache. '
                f"Received: cache={self.cache!r}."
            )
        self._check_schedule()

    def _check_schedule(self) -> None:
        self._plan((), 1)

    def preview(
        self, model: keras.Model, epochs: int, steps_per_epoch: int | None = None
    ) -> SchedulePreview:
        """Return a table of what this callback will do in a fit; nothing is changed.

        Args:
            model: `keras.Model`, built.
            epochs: Int, the epochs of the fit.
            steps_per_epoch: Int, batches in an epoch, for phases that end after steps.

        Returns:
            `SchedulePreview`, which prints as a table.
        """
        schedule = self._plan_for(model, self.total_epochs or epochs)
        steps, groups, rates = steps_per_epoch, self.groups, self.rates
        return preview(schedule, model, epochs, steps_per_epoch=steps, groups=groups, rates=rates)

    def phase_starts(self, model: keras.Model, epochs: int) -> tuple[int | None, ...]:
        """Return the epoch (0-based) in which each phase begins in a training of this length.

        Args:
            model: `keras.Model`, built.
            epochs: Int, the epochs of the training.

        Returns:
            Tuple of int; None where the beginning depends on the logs or on steps.
        """
        moments = timeline(self._plan_for(model, self.total_epochs or epochs), None)
        return tuple(None if moment is None else moment.epoch for moment in moments)

    def prepare(self, model: keras.Model, phase: int = -1, *, epochs: int | None = None) -> None:
        """Set a model's flags as they are in a phase, before its optimizer's state is loaded.

        A plain file keeps the flags of layers, not those of single variables, and Keras loads an
        optimizer's state only where the same variables train. So where a phase has `weights=` or
        `batch_norm="statistics"`, load the model, prepare it, and load the file again with
        `model.load_weights`, which reads `.keras` files too.

        Args:
            model: `keras.Model`, built; compiled, if its optimizer is to be loaded.
            phase: Int, the number of the phase. Defaults to -1, the last.
            epochs: Int, the epochs of the training, which an `"even"` schedule depends on.
                Defaults to `total_epochs`, else to enough for every group.

        Raises:
            IndexError: if the schedule has no such phase.
            ValueError: if the schedule doesn't fit the model.
        """
        groups = layer_groups(model, self.groups)
        total = epochs or self.total_epochs or len(groups)
        planned = self._plan_for(model, total).phases[phase]
        frozen = planned.policy(self.groups).select(model)
        transition(model, phase_flags(model, frozen, planned.batch_norm, groups))

    def _plan_for(self, model: keras.Model, epochs: int) -> FreezeSchedule:
        """Return the schedule for a model and a training of this length."""
        return self._plan(GroupNames.of(layer_groups(model, self.groups)), epochs)

    def _plan(self, names: Sequence[str], epochs: int) -> FreezeSchedule:
        """Return the schedule for a model with these groups and a training of this length."""
        if self.batch_norm != "frozen" and not isinstance(self.schedule, Mapping):
            raise ValueError(
                f"{type(self).__name__}(batch_norm=...) must be left out where the phases of a "
                f"schedule have modes of their own. Received: batch_norm={self.batch_norm!r}."
            )
        if isinstance(self.schedule, FreezeSchedule):
            return self.schedule
        if isinstance(self.schedule, (str, os.PathLike)):
            return read(Path(self.schedule))
        if not isinstance(self.schedule, Mapping):
            raise TypeError(
                f"{type(self).__name__}(schedule=...) must be a FreezeSchedule, the path of its "
                "YAML file, or a mapping from epoch to what is frozen. "
                f"Received: schedule={self.schedule!r}."
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
        self._siblings = sibling_callbacks(self)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Make the plan for this fit, and check that it can be carried out."""
        self._check_alone()
        owner = type(self).__name__
        companions.refuse_stock_backup(owner, self._siblings)
        fit_epochs = self.params["epochs"]
        total = self.total_epochs or fit_epochs
        schedule = self._plan_for(self.model, total)
        steps = self.params.get("steps")
        stride = getattr(self._model, "steps_per_execution", 1)
        run = Run(schedule, fit_epochs, total, steps, stride, self.groups, self.rates)
        fit_checks.check(run, self.model, owner)
        self._run = run
        self._cache = companions.cache_for(owner, self.cache, self._siblings, self.verbose)
        if self._cache is not None:
            self._cache.set_params(self.params)
            self._cache.set_model(self._model)
            self._cache.on_train_begin()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Make the transition that is due."""
        run = self._run
        if run is None:
            return
        if self._cache is not None:
            self._cache.on_epoch_begin(epoch)
        run.epoch, run.batch = epoch, 0
        if run.progress is None:
            self._begin(run)
        else:
            self._say(schedule_run.advance(run, self.model))
        self._tell_cache(run)
        resume_point.remember(self.model, run, epoch)

    def _tell_cache(self, run: Run) -> None:
        if self._cache is not None:
            self._cache.expect(run.next_transition)

    def _begin(self, run: Run) -> None:
        owner, groups = type(self).__name__, layer_groups(self.model, self.groups)
        resume_point.place(run, self.model, owner)
        companions.warn_of_early_stopping(owner, run, self._siblings)
        run.kept = self._groups_to_keep(groups, run.epoch)
        starts = resume_point.joined_at(run, self.model, groups, owner)
        said = schedule_run.enter(run, self.model, starts)
        # The last fit may have ended with a phase; going back to its best needs its flags.
        later = schedule_run.advance(run, self.model)
        self._say(later or ([said] if said else []))

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Make a transition that is due in the middle of an epoch."""
        run = self._run
        if run is None or run.progress is None:
            return
        run.count_steps(batch)
        if run.progress.is_over and not run.progress.is_last:
            self._say(schedule_run.advance(run, self.model))
            self._tell_cache(run)
        if run.progress.is_last and run.progress.after_steps(run.execution).is_over:
            self._model.stop_training = True  # which Keras looks at after this execution

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the parameter counts to the logs, and see whether the phase is over."""
        run = self._run
        if run is None or run.progress is None:
            return
        logs = {} if logs is None else logs
        self._add_to(logs, run)
        run.count_steps(run.batch + run.execution)
        schedule_run.keep_best(run, self.model, logs)
        run.progress = run.progress.after_epoch(logs)
        if run.progress.is_last and run.progress.is_over:
            self._model.stop_training = True
            self._say(
                [f"Epoch {epoch + 1}/{run.epochs}: the last phase is over, and training ends."]
            )
        resume_point.remember(self.model, run, epoch + 1)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leave the flags as they are and take the group rates back."""
        if self._cache is not None:
            self._cache.on_train_end()
            self._cache = None
        if self._run is not None:
            said = schedule_run.leave(self._run, self.model)
            self._say([said] if said else [])
            fit_checks.warn_of_files(self._run, self.model, type(self).__name__)
        self._run, self._siblings = None, ()

    def __repr__(self) -> str:
        return call_of(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model and the running fit out of copies: they belong to the original."""
        return {
            **vars(self),
            "_model": None,
            "_run": None,
            "_siblings": (),
            "_cache": None,
            "params": None,
        }

    @property
    def present_curve(self) -> Curve | None:
        """The learning-rate curve of the present phase of a fit, None where there is none."""
        run = self._run
        if run is None or run.entered is None or run.entered < 0:
            return None
        return run.schedule.phases[run.entered].curve

    def training_state(self) -> dict[str, Any]:
        """Return where this fit is, as plain data and arrays, for a backup."""
        run = self._run
        if run is None or run.progress is None:
            return {"plan": None}
        return {
            "plan": self._script(run),
            "epoch": run.epoch + 1,
            "progress": [run.progress.index, run.progress.state],
            "entered": run.entered,
            "steps": run.steps,
            "kept": sorted(run.kept),
            "frozen": list(run.frozen),
            "multipliers": dict(run.multipliers),
            "counts": list(run.counts),
            "best": run.best and [run.best.value, run.best.epoch, run.best.steps, run.best.state],
        }

    def check_training_state(self, state: Mapping[str, Any]) -> None:
        """Raise a `ValueError` if a backup was made by another schedule, rates or groups."""
        if self._run is None or state["plan"] is None:
            return
        for name, own in self._script(self._run).items():
            if state["plan"][name] != own:
                raise ValueError(
                    f"{type(self).__name__}({name}=...) must be that of the backup. Received: "
                    f"{own}, but the backup was made with {state['plan'][name]}. Restore the "
                    "script as it was, or delete the backup to start over."
                )

    def set_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on from where a backup was made."""
        run = self._run
        if run is None or state["plan"] is None:
            return
        index, trigger = state["progress"]
        run.progress = Progress(run.schedule, index, trigger)
        run.entered, run.steps = state["entered"], state["steps"]
        run.kept, run.frozen = frozenset(state["kept"]), tuple(state["frozen"])
        run.multipliers = dict(state["multipliers"])
        run.counts = tuple(state["counts"])
        run.best = state["best"] and Best(*state["best"])
        # For a training that was complete, so that no epoch will say it.
        resume_point.remember(self.model, run, state["epoch"])

    def _script(self, run: Run) -> dict[str, Any]:
        """Return what must be the same in a script that goes on with a backup."""
        numbers = {id(v): n for n, v in enumerate(self.model.weights)}
        return {
            "schedule": fingerprint(run.schedule),
            "rates": dict(self.rates) if isinstance(self.rates, Mapping) else self.rates,
            "groups": {
                group.name: [numbers[id(v)] for v in group.variables]
                for group in layer_groups(self.model, self.groups)
            },
        }

    def _check_alone(self) -> None:
        others = [other for other in self._siblings if isinstance(other, FreezeScheduler)]
        if others:
            raise ValueError(
                f"fit(callbacks=...) must hold one {FreezeScheduler.__name__} or GradualUnfreeze "
                f"at most. Received: {self!r} and {others[0]!r}. Put both plans into one."
            )

    def _say(self, lines: Sequence[str]) -> None:
        if self.verbose:
            for line in lines:
                print(line)

    def _add_to(self, logs: dict[str, Any], run: Run) -> None:
        logs["trainable_params"], logs["non_trainable_params"] = run.counts
        if self.log_details:
            logs["phase"] = run.entered
            logs["frozen_groups"] = len(run.frozen)
            rate = optimizer_state.learning_rate(self.model.optimizer)
            if rate is not None:  # a MultiOptimizer has none to give
                rate *= schedule_run.pace_factor(self.model)
                for name, multiplier in run.multipliers.items():
                    logs[f"learning_rate/{name}"] = rate * multiplier * (name not in run.frozen)
