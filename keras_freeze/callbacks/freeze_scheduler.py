"""The general callback: run a freeze schedule while `fit` runs.

It is a thin driver: a planner makes the schedule, `ScheduleRun` carries it out, and the lines
that it returns are printed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import keras

from keras_freeze.base_callback import BaseCallback
from keras_freeze.callbacks import (
    fit_findings,
    plan_checks,
    resume_point,
    run_state,
    sibling_checks,
    transition_message,
)
from keras_freeze.callbacks.fit_plan import FitPlan
from keras_freeze.callbacks.fit_planner import FitPlanner
from keras_freeze.callbacks.group_logs import Details, GroupLogs, as_details
from keras_freeze.callbacks.phase_status import final_states, phase_status
from keras_freeze.callbacks.running_fit import FitResults, RunningFit
from keras_freeze.callbacks.schedule_run import ScheduleRun
from keras_freeze.checks import ArgumentError, ArgumentTypeError, is_int
from keras_freeze.engine import state_of
from keras_freeze.findings import Setup
from keras_freeze.groups import Backbone, Groups, names_of
from keras_freeze.keras_internals.callback_list import add_to_fit, sibling_callbacks
from keras_freeze.keras_internals.processes import is_first
from keras_freeze.keras_internals.retracing import expect_retracing_in_fits_with
from keras_freeze.live import LiveView, PhaseStatus, notebook_shell
from keras_freeze.measures import Gauge
from keras_freeze.policies import (
    BatchNormMode,
    KeepFrozen,
    check_batch_norm,
    keep_frozen_policy,
    kept_by_lora,
)
from keras_freeze.prefix_cache import CacheDriver, PrefixCache, cache_for
from keras_freeze.schedules import (
    Curve,
    Decisions,
    FreezeSchedule,
    GivenSchedule,
    Planner,
    Rates,
    SchedulePreview,
    ScheduleRecord,
    check_rates,
)
from keras_freeze.training_reports import TrainingReport

# So many epochs, of so many batches, reach every phase of a calendar.
_PLENTY = 10_000


class FreezeScheduler(BaseCallback):
    """Freeze and unfreeze parts of a model while it trains, by any schedule.

    Where a phase begins, the flags are set and the model is recompiled with all its training
    state; a line says what changed. The flags stay as the last phase had them; group rates end
    with the `fit`.

    Args:
        schedule: `keras_freeze.schedules.FreezeSchedule`, the path of its YAML file, or a
            mapping from epoch (0-based) to what is frozen from then on: an int (layer groups
            from the input), a group's name or names, a freeze policy or callable, a
            `schedules.Phase`, or None for nothing.
        backbone: What is pretrained, as for `layer_groups`: a model or layer that the model was
            built from, a name, a pattern, or several. Everything else is new: it is the last group,
            trains from the first step, and its `BatchNormalization` layers learn. Kept by name.
            Defaults to None, to be found; the first line of a fit says what was.
        keep_frozen: What never unfreezes, whatever the schedule says: names of groups or layers,
            regular expressions that are searched in names of layers and paths of variables, or a
            freeze policy or callable. Defaults to None. (A `Distiller`'s teacher never does.)
        lora: `"adapters"` (default): what `enable_lora` froze stays frozen. `"with_base"`: it
            unfreezes with its group. Only float base weights can.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        rates: Learning rates of the groups as multiples of the compiled one, for phases that
            have none of their own: a mapping from group to multiplier, a factor between
            neighbouring groups, `"default"` or `"auto"` as for `GradualUnfreeze`, or None (default)
            for the same rate everywhere.
        batch_norm: Mode for `BatchNormalization` layers of the pretrained part, for schedules
            given as a mapping: `"frozen"` (default), `"follow"`, `"statistics"` or `"train"`.
        cache: Whether to compute what is frozen once, not in every epoch: `"auto"` (default)
            where that pays, True wherever it can be done, False, or a `PrefixCache` with
            arguments of your own. The results are the same.
        total_epochs: Int, the epochs of the whole training when it is split over several fits.
            Defaults to those of the fit.
        log_details: As for `GradualUnfreeze`.
        verbose: 0 for nothing, 1 (default) to print a line at each transition, in a notebook in a
            `LiveView` that is shown by itself, or 2 for the lines alone.

    Raises:
        TypeError: if the schedule is of another type.
        ValueError: if an argument is invalid; at the start of training, if a name is unknown or
            a phase leaves nothing to train.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((4,)),
        ...         keras.layers.Dense(3, use_bias=False, name="low"),
        ...         keras.layers.Dense(1),
        ...     ]
        ... )
        >>> model.compile(keras.optimizers.SGD(0.01), "mse")
        >>> callback = FreezeScheduler({0: "low", 1: None}, backbone="low")
        >>> x, y = np.ones((8, 4)), np.ones((8, 1))
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
        Backbone: low (1 layer); new: 1 layer.
        Epoch 1/2: head trains at 1.0e-02, low is frozen; 4 of 16 parameters train.
        Epoch 2/2: low unfreezes at 1.0e-02; 16 of 16 parameters train.
        >>> history.history["trainable_params"]
        [4, 16]
    """

    _fit: RunningFit | None = None
    _results = FitResults()
    _siblings: tuple[keras.callbacks.Callback, ...] = ()

    def __init__(
        self,
        schedule: FreezeSchedule | Mapping[int, Any] | str | os.PathLike[str],
        *,
        backbone: Backbone | None = None,
        keep_frozen: KeepFrozen | None = None,
        lora: Literal["adapters", "with_base"] = "adapters",
        groups: Groups | None = None,
        rates: Rates = None,
        batch_norm: BatchNormMode = "frozen",
        cache: bool | str | PrefixCache = "auto",
        total_epochs: int | None = None,
        log_details: Details = False,
        verbose: int = 1,
    ):
        super().__init__()
        self.schedule = schedule
        self.backbone = names_of(type(self).__name__, backbone)
        self.keep_frozen = keep_frozen
        self.lora = lora
        self.groups = groups
        self.rates = rates
        self.batch_norm = batch_norm
        self.cache = cache
        self.total_epochs = total_epochs
        self.log_details = log_details
        self.verbose = verbose
        #: What makes another planner of the callback's own; None to leave it.
        self.adapt_planner: Callable[[Any], Planner] | None = None
        self._check_arguments()
        self._planner()

    @property
    def planner(self) -> Planner:
        """What plans the schedule of a fit."""
        planner = self._planner()
        return planner if self.adapt_planner is None else self.adapt_planner(planner)

    def _planner(self) -> Planner:
        """Return the planner by the callback's own arguments; raise if they are invalid."""
        return GivenSchedule(type(self).__name__, self.schedule, self.batch_norm)

    def _gauge(self) -> Gauge | None:
        """Return what measures how much groups change; None where nothing depends on that."""
        return None

    def _check_arguments(self) -> None:
        owner, epochs = type(self).__name__, self.total_epochs
        if self.keep_frozen is not None:
            keep_frozen_policy(owner, self.keep_frozen)
        if self.lora not in ("adapters", "with_base"):
            raise ArgumentError(owner, "lora", 'be "adapters" or "with_base"', value=self.lora)
        check_rates(owner, self.rates)
        check_batch_norm(owner, self.batch_norm)
        as_details(owner, self.log_details)
        if epochs is not None and not is_int(epochs):
            raise ArgumentTypeError(owner, "total_epochs", "be an int", value=epochs)
        if epochs is not None and epochs < 1:
            raise ArgumentError(owner, "total_epochs", "be at least 1", value=epochs)
        if self.verbose not in (0, 1, 2):
            raise ArgumentError(owner, "verbose", "be 0, 1 or 2", value=self.verbose)
        if not isinstance(self.cache, (bool, PrefixCache)) and self.cache != "auto":
            rule = 'be "auto", True, False or a PrefixCache'
            raise ArgumentError(owner, "cache", rule, value=self.cache)

    def preview(
        self,
        model: keras.Model,
        epochs: int,
        steps_per_epoch: int | None = None,
        *,
        batch_size: int | None = None,
    ) -> SchedulePreview:
        """Return a table of what this callback will do in a fit; nothing is changed.

        Args:
            model: `keras.Model`, built.
            epochs: Int, the epochs of the fit.
            steps_per_epoch: Int, batches in an epoch, for phases that end after steps.
            batch_size: Int, samples in a batch, to show the memory of a training step in each
                phase, as `parameter_report` estimates it. Defaults to None, for none.

        Returns:
            `SchedulePreview`, which prints as a table.

        Raises:
            ValueError: if `fit` would refuse the schedule, with what it would say.
        """
        return self._fit_planner.preview(model, epochs, steps_per_epoch, batch_size)

    def phase_starts(
        self, model: keras.Model, epochs: int, steps_per_epoch: int | None = None
    ) -> tuple[int | None, ...]:
        """Return the epoch (0-based) in which each phase begins in a training of this length.

        Args:
            model: `keras.Model`, built.
            epochs: Int, the epochs of the training.
            steps_per_epoch: Int, batches in an epoch, for schedules that depend on it.

        Returns:
            Tuple of int; None where the beginning depends on the logs or on steps.
        """
        return self._fit_planner.starts(model, epochs, steps_per_epoch)

    def to_yaml(
        self,
        path: str | os.PathLike[str],
        model: keras.Model,
        epochs: int,
        *,
        steps_per_epoch: int | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write what this callback will do in a fit, as a file to edit and run.

        `FreezeScheduler(path)` then trains like this callback in a fit from epoch 0. What is no
        part of a schedule is given to it again: `backbone=`, `groups=`, `keep_frozen=`, `lora=` and
        `total_epochs=`, where this callback has them, and `cache=`. Phases that are not reached in
        these epochs are left out.

        Args:
            path: The file, by custom ending in `.yaml`.
            model: `keras.Model`, built.
            epochs: Int, the epochs of the fit.
            steps_per_epoch: Int, batches in an epoch, for schedules that depend on it.
            overwrite: Bool, whether to replace a file that is there. Defaults to False.

        Raises:
            FileExistsError: if the file is there already.
            TypeError: if the schedule holds a function or an object of another class.
            ValueError: if the schedule names what the model does not have.
        """
        self.plan(model, epochs, steps_per_epoch).to_yaml(path, overwrite=overwrite)

    def plan(
        self, model: keras.Model, epochs: int, steps_per_epoch: int | None = None
    ) -> FreezeSchedule:
        """Return what this callback will do in a fit, as a schedule; nothing is changed.

        Each phase has the rates of the callback if it has none of its own. Phases that are not
        reached in these epochs are left out.

        Args:
            model: `keras.Model`, built.
            epochs: Int, the epochs of the fit.
            steps_per_epoch: Int, batches in an epoch, for schedules that depend on it.

        Returns:
            `schedules.FreezeSchedule`.

        Raises:
            ValueError: if the schedule names what the model does not have, or decides while it
                trains.
        """
        return self._fit_planner.schedule(model, epochs, steps_per_epoch)

    def setup(self, model: keras.Model, *, batch_size: int | None = None) -> Setup:
        """Return what this callback will train, and at which rates, for `keras_freeze.check`.

        Args:
            model: `keras.Model`, built.
            batch_size: Int, of the training. Defaults to None, not known.

        Raises:
            ValueError: if the schedule doesn't fit the model.
        """
        planner = self._fit_planner
        # How long the training and its epochs will be isn't known: every phase counts.
        plan = planner.plan(model, self.total_epochs or _PLENTY, _PLENTY)
        return fit_findings.setup_of(plan, batch_size)

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
        self._fit_planner.prepare(model, phase, epochs)

    @property
    def _fit_planner(self) -> FitPlanner:
        owner = type(self).__name__
        return FitPlanner(
            owner=owner,
            given=self.schedule,
            planner=self.planner,
            groups=self.groups,
            backbone=self.backbone,
            keep_frozen=self.keep_frozen,
            lora=self.lora,
            rates=self.rates,
            total_epochs=self.total_epochs,
            gauge=self._gauge(),
            records=GroupLogs(as_details(owner, self.log_details)).records,
        )

    def set_model(self, model: keras.Model) -> None:
        """Take the model, and show a live view in a notebook where there is none."""
        super().set_model(model)
        shows = any(isinstance(other, LiveView) for other in sibling_callbacks(self))
        if not shows and self.verbose == 1 and notebook_shell() is not None:
            add_to_fit(LiveView(), model)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Make the plan for this fit, and check that it can be carried out."""
        self._siblings = sibling_callbacks(self)
        self._check_alone()
        self._fit, self._results = None, FitResults()
        owner, model = type(self).__name__, self.model
        sibling_checks.refuse_stock_backup(owner, self._siblings)
        plan = self._fit_planner.plan(model, self.params["epochs"], self.params.get("steps"))
        picture = plan.picture
        plan_checks.check_adaptive(plan)
        sibling_checks.check_adaptive(plan, self._siblings)
        plan_checks.warn(plan)
        sibling_checks.warn_of_h5(plan, self._siblings)
        state = state_of(model)
        state.untouched = picture.untouched
        state.kept_by_lora |= kept_by_lora(picture, state.frozen_here)
        view = next((other for other in self._siblings if isinstance(other, LiveView)), None)
        keeps_lines = view is not None and view.keeps_lines
        cache_verbose = int(bool(self.verbose) and not keeps_lines)
        cache = cache_for(owner, self.cache, self._siblings, cache_verbose)
        if view is not None:
            view.follow(self, cache)
        driver = CacheDriver(cache, self, keeps_cuts=plan.is_race)
        group_logs = GroupLogs(as_details(owner, self.log_details))
        self._fit = RunningFit(plan, driver, group_logs, view)
        driver.begin()
        if picture.pretrained is not None and picture.pretrained.layers:
            self._say([transition_message.what_is_pretrained(picture.pretrained)])
        self._say(self.planner.remarks(picture, plan.total_epochs))
        if self.verbose:
            self._say(f"Check: {finding}." for finding in fit_findings.findings_of_fit(plan))

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Make the transition that is due."""
        fit = self._fit
        if fit is None:
            return
        fit.cache.begin_epoch(epoch)
        lines = self._begin(fit, epoch) if fit.run is None else fit.run.begin_epoch(epoch)
        if fit.is_resumed:
            fit.is_resumed = False
            lines = lines or [fit.present_run.what_trains()]
        self._say(lines)
        run = fit.present_run
        fit.cache.expect(run.next_transition)
        fit.group_logs.begin_epoch(run)
        resume_point.record(run, epoch)

    def _begin(self, fit: RunningFit, epoch: int) -> list[str]:
        plan, keeps_unfrozen = fit.plan, self.planner.keeps_unfrozen
        plan_checks.refuse_later_start(plan, epoch)
        if plan.adaptive is None:
            sibling_checks.warn_of_impatience(plan, epoch, self._siblings)
        start = resume_point.starting_point(plan, epoch, keeps_unfrozen)
        sibling_checks.refuse_without_validation(plan, epoch, start.progress.phase, self._siblings)
        if epoch == 0 and keeps_unfrozen and resume_point.is_known(plan.picture.model):
            self._say(
                [
                    f"{plan.owner}: this fit starts over from the head. To continue where the last "
                    "one ended, pass initial_epoch= to fit."
                ]
            )
        fit.group_logs.begin(plan, epoch)
        return fit.begin(start)

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Make a transition that is due in the middle of an epoch."""
        if self._fit is None or self._fit.run is None:
            return
        lines = self._fit.run.before_batch(batch)
        if lines:
            self._say(lines)
            self._fit.cache.expect(self._fit.run.next_transition)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the parameter counts to the logs, and see whether the phase is over."""
        if self._fit is None or self._fit.run is None:
            return
        logs = {} if logs is None else logs
        self._fit.end_epoch(epoch, logs)
        self._say(self._fit.run.end_epoch(logs))
        resume_point.record(self._fit.run, epoch + 1)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leave the flags as they are and end the group rates."""
        fit = self._fit
        if fit is None:
            return
        fit.cache.end()
        record, decisions = fit.record, fit.decisions
        if fit.run is not None:
            self._say(fit.run.finish())
            plan_checks.warn_of_files(fit.run)
            if fit.view is not None:
                fit.view.settle(final_states(fit.run))
        self._results = FitResults(record, fit.report, decisions)
        self._fit, self._siblings = None, ()

    @property
    def _run(self) -> ScheduleRun | None:
        return None if self._fit is None else self._fit.run

    @property
    def _known(self) -> FitResults | RunningFit:
        """What is known of this fit, before its first epoch of none, and then of the last."""
        return self._results if self._fit is None else self._fit

    @property
    def present_curve(self) -> Curve | None:
        """The learning-rate curve of the present phase of a fit, None where there is none."""
        phase = self._run.progress.phase if self._run is not None else None
        return None if phase is None else phase.curve

    @property
    def record(self) -> ScheduleRecord | None:
        """What trained in this or the last fit, when and at which rates; None before the first."""
        return self._known.record

    @property
    def report(self) -> TrainingReport | None:
        """What this or the last fit brought, phase by phase, and what to try next."""
        return self._known.report

    @property
    def phase_index(self) -> int | None:
        """The number of the present phase of a fit, 0-based; None where there is none."""
        return None if self._run is None else self._run.progress.index

    def phase_status(self) -> PhaseStatus | None:
        """Return what a live view shows of the present phase; None where there is none."""
        return None if self._run is None else phase_status(self._run)

    @property
    def decisions(self) -> Decisions | None:
        """What an adaptive schedule decided in this or the last fit; None for one that is given."""
        return self._known.decisions

    def training_state(self) -> dict[str, Any]:
        """Return where this fit is, as plain data and arrays, for a backup."""
        fit = self._fit
        if fit is None or fit.run is None:
            return {"plan": None}
        return {**run_state.to_plain(fit.run, self._script(fit.plan)), **fit.notes_to_plain()}

    def check_training_state(self, state: Mapping[str, Any]) -> None:
        """Raise a `ValueError` if a backup was made by another schedule, or other arguments."""
        if self._fit is not None and state["plan"] is not None:
            run_state.check_script(self._fit.plan, self._script(self._fit.plan), state)

    def set_training_state(self, state: Mapping[str, Any]) -> None:
        """Continue from where a backup was made."""
        fit = self._fit
        if fit is None or state["plan"] is None:
            return
        fit.run, fit.is_resumed = run_state.of_plain(fit.plan, state), True
        fit.take_notes(state)
        # For a training that was complete, in which no epoch will record it.
        resume_point.record(fit.run, state["epoch"])

    def _script(self, plan: FitPlan) -> dict[str, Any]:
        details = as_details(plan.owner, self.log_details)
        arguments = {
            "rates": dict(self.rates) if isinstance(self.rates, Mapping) else self.rates,
            "lora": self.lora,
            "keep_frozen": run_state.numbers_of(plan, self.keep_frozen),
            # Which need a slot, or values of the first epoch.
            "log_details": sorted(details & {"gradients", "weight_change"}),
        }
        return run_state.script_of(plan, arguments)

    def _check_alone(self) -> None:
        others = [other for other in self._siblings if isinstance(other, FreezeScheduler)]
        if others:
            raise ArgumentError(
                "fit",
                "callbacks",
                "contain at most one freeze schedule",
                received=f"{self!r} and {others[0]!r}",
                advice="Put both plans into one.",
            )

    def _say(self, lines: Iterable[str]) -> None:
        view = None if self._fit is None else self._fit.view
        if view is not None and view.is_on:
            view.say(lines, is_printed=bool(self.verbose))
        elif self.verbose and is_first():
            for line in lines:
                print(line)


# Each transition makes a new train step on purpose.
expect_retracing_in_fits_with(FreezeScheduler)
