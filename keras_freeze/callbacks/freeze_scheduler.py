"""The general callback: run a freeze schedule while `fit` runs.

It is a thin driver: a planner makes the schedule, `ScheduleRun` carries it out, and the lines
that it returns are printed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import keras

from keras_freeze.base_callback import BaseCallback
from keras_freeze.callbacks import (
    fit_checks,
    fit_findings,
    resume_point,
    run_state,
    transition_message,
)
from keras_freeze.callbacks.adaptive_run import AdaptiveRun
from keras_freeze.callbacks.first_values import FirstValues
from keras_freeze.callbacks.fit_plan import FitPlan
from keras_freeze.callbacks.group_logs import Details, GroupLogs, as_details
from keras_freeze.callbacks.phase_status import final_states, phase_status
from keras_freeze.callbacks.schedule_run import ScheduleRun
from keras_freeze.checks import ArgumentError, ArgumentTypeError, is_int
from keras_freeze.engine import state_of, transition
from keras_freeze.findings import Setup
from keras_freeze.groups import Backbone, Groups, names_of, picture_of
from keras_freeze.keras_internals import trainer
from keras_freeze.keras_internals.callback_list import sibling_callbacks
from keras_freeze.keras_internals.retracing import expect_retracing_in_fits_with
from keras_freeze.live import LiveView, PhaseStatus, notebook_shell
from keras_freeze.measures import Gauge
from keras_freeze.model_picture import ModelPicture, with_initial_values
from keras_freeze.policies import (
    BatchNormMode,
    KeepFrozen,
    check_batch_norm,
    keep_frozen_policy,
    kept_by_lora,
    phase_flags,
    with_kept_frozen,
)
from keras_freeze.prefix_cache import CacheDriver, PrefixCache
from keras_freeze.schedules import (
    Curve,
    Decisions,
    FreezeSchedule,
    GivenSchedule,
    Phase,
    Planner,
    Rates,
    SchedulePreview,
    ScheduleRecord,
    check_rates,
    preview_in,
)
from keras_freeze.training_reports import (
    TrainingNotes,
    TrainingReport,
    WeightSamples,
    training_report,
)


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

    _plan: FitPlan | None = None
    _run: ScheduleRun | None = None
    _cache: CacheDriver | None = None
    _decisions: Decisions | None = None
    _record: ScheduleRecord | None = None
    _report: TrainingReport | None = None
    _notes: TrainingNotes | None = None
    _group_logs: GroupLogs | None = None
    _view: LiveView | None = None
    _own_view: LiveView | None = None
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
        plan = self._plan_for(model, epochs, steps_per_epoch)
        return preview_in(
            plan.schedule,
            plan.picture,
            epochs,
            steps_per_epoch=steps_per_epoch,
            rates=self.rates,
            is_open=plan.adaptive is not None,
            batch_size=batch_size,
        )

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
        picture = self._picture_of(model)
        if self.planner.adaptive(picture, epochs) is not None:
            return 0, None
        return self._schedule_for(picture, epochs, steps_per_epoch).starts(steps_per_epoch)

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
        part of a schedule is given to it again: `backbone=`, `groups=` and `total_epochs=`, where
        this callback has them, and `cache=`. Phases that are not reached in these epochs are left
        out.

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
        picture = self._picture_of(model)
        self._refuse_adaptive(picture, epochs, "planned")
        schedule = self._schedule_for(picture, epochs, steps_per_epoch)
        phases: list[Phase] = []
        for phase, epoch in zip(schedule.phases, schedule.starts(), strict=True):
            phase.policy(picture.division).sketch_in(picture)
            if phase.rates is None:
                phase = dataclasses.replace(phase, rates=self.rates)
            if epoch is None or epoch < (self.total_epochs or epochs) or not phases:
                phases.append(phase)
        counts = tuple((group.name, group.total_params) for group in picture.groups)
        return FreezeSchedule(phases, schedule.start, counts)

    def setup(self, model: keras.Model, *, batch_size: int | None = None) -> Setup:
        """Return what this callback will train, and at which rates, for `keras_freeze.check`.

        Args:
            model: `keras.Model`, built.
            batch_size: Int, of the training. Defaults to None, not known.

        Raises:
            ValueError: if the schedule doesn't fit the model.
        """
        # By a calendar every group can have an epoch of its own in so many.
        epochs = self.total_epochs or len(self._picture_of(model).groups)
        return fit_findings.setup_of(self._plan_for(model, epochs, None), batch_size)

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
        picture = self._picture_of(model)
        total = epochs or self.total_epochs or len(picture.groups)
        self._refuse_adaptive(picture, total, "prepared for")
        planned = self.planner.plan(picture, total).phases[phase]
        if planned.decides_late:
            raise ArgumentError(
                type(self).__name__,
                "schedule",
                "say what a phase freezes to be prepared for",
                value=planned.frozen,
                advice="Set the flags by keras_freeze.freeze, as they were in the training.",
            )
        frozen = planned.policy(picture.division).select_in(picture)
        transition(model, phase_flags(picture, frozen, planned.batch_norm))

    def _refuse_adaptive(self, picture: ModelPicture, epochs: int, verb: str) -> None:
        if self.planner.adaptive(picture, epochs) is not None:
            raise ArgumentError(
                type(self).__name__,
                "schedule",
                f"be known before training to be {verb}",
                value=self.schedule,
                advice="After a fit, its history has the freeze depth; write a schedule with that.",
            )

    def _picture_of(self, model: keras.Model) -> ModelPicture:
        is_whole = self.lora == "with_base"
        picture = picture_of(model, self.groups, self.backbone, lora_base_trains=is_whole)
        picture = with_initial_values(picture)
        state = state_of(model)
        # What was untouched when an earlier fit of the model began is still not pretrained.
        untouched = picture.untouched | state.untouched
        by_lora = state.kept_by_lora | kept_by_lora(picture, state.frozen_here)
        kept = frozenset() if is_whole else by_lora
        never_trains = picture.never_trains | kept | state.kept_frozen
        picture = dataclasses.replace(picture, untouched=untouched, never_trains=never_trains)
        return with_kept_frozen(picture, type(self).__name__, self.keep_frozen)

    def _plan_for(self, model: keras.Model, epochs: int, steps: int | None) -> FitPlan:
        """Return the plan for a fit; raise if it can't be carried out."""
        owner, total = type(self).__name__, self.total_epochs or epochs
        picture = self._picture_of(model)
        fit_checks.refuse_quantized_lora(owner, picture)
        stride = getattr(model, "steps_per_execution", 1)
        schedule = self.planner.plan(picture, total, steps)
        adaptive = self.planner.adaptive(picture, total, steps)
        plan = FitPlan(
            owner,
            picture,
            schedule,
            epochs,
            total,
            steps,
            stride,
            self.rates,
            adaptive,
            self._gauge(),
            GroupLogs(as_details(owner, self.log_details)).records,
        )
        fit_checks.check_schedule(plan)
        fit_checks.check_optimizers(plan)
        return plan

    def _schedule_for(
        self, picture: ModelPicture, epochs: int, steps: int | None = None
    ) -> FreezeSchedule:
        return self.planner.plan(picture, self.total_epochs or epochs, steps)

    def set_model(self, model: keras.Model) -> None:
        """Take the model, and record which callbacks stand beside this one."""
        super().set_model(model)
        self._siblings = sibling_callbacks(self)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Make the plan for this fit, and check that it can be carried out."""
        self._check_alone()
        self._end()
        self._decisions = self._record = self._report = None
        self._notes = None
        owner, model = type(self).__name__, self.model
        fit_checks.refuse_stock_backup(owner, self._siblings)
        plan = self._plan_for(model, self.params["epochs"], self.params.get("steps"))
        picture = plan.picture
        fit_checks.check_adaptive(plan, self._siblings)
        fit_checks.warn_of_late_phases(plan)
        fit_checks.warn_of_initial_values(plan)
        fit_checks.warn_of_state_that_can_not_freeze(plan)
        fit_checks.warn_of_h5(plan, self._siblings)
        fit_checks.warn_of_tiny_rates(plan)
        state = state_of(model)
        state.untouched = picture.untouched
        state.kept_by_lora |= kept_by_lora(picture, state.frozen_here)
        self._find_view()
        is_shown = self._view is not None and self._view.keeps_lines
        says = int(bool(self.verbose) and not is_shown)
        cache = fit_checks.cache_for(owner, self.cache, self._siblings, says)
        if self._view is not None:
            self._view.follow(self, cache)
        is_race = plan.adaptive is not None and plan.adaptive.schedule.is_race
        self._plan, self._cache = plan, CacheDriver(cache, self, keeps_cuts=is_race)
        self._cache.begin()
        self._group_logs = GroupLogs(as_details(owner, self.log_details))
        if picture.pretrained is not None and picture.pretrained.layers:
            self._say([transition_message.what_is_pretrained(picture.pretrained)])
        self._say(self.planner.remarks(picture, plan.total_epochs))
        if self.verbose:
            self._say(f"Check: {finding}." for finding in fit_findings.findings_of_fit(plan))
        if self._own_view is not None:
            self._own_view.on_train_begin(logs)

    def _find_view(self) -> None:
        """Find the live view of this fit: one beside this callback, or its own in a notebook."""
        beside = [other for other in self._siblings if isinstance(other, LiveView)]
        self._own_view = None
        if not beside and self.verbose == 1 and notebook_shell() is not None:
            self._own_view = LiveView()
            self._own_view.set_params(self.params)
            self._own_view.set_model(trainer.model_of(self))
        self._view = beside[0] if beside else self._own_view

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Make the transition that is due."""
        if self._plan is None or self._cache is None:
            return
        self._cache.begin_epoch(epoch)
        if self._run is None:
            self._run, lines = self._begin(self._plan, epoch)
        else:
            lines = self._run.begin_epoch(epoch)
        self._say(lines)
        self._cache.expect(self._run.next_transition)
        if self._group_logs is not None:
            self._group_logs.begin_epoch(self._run)
        resume_point.record(self._run, epoch)
        if self._own_view is not None:
            self._own_view.on_epoch_begin(epoch, logs)

    def _begin(self, plan: FitPlan, epoch: int) -> tuple[ScheduleRun, list[str]]:
        fit_checks.refuse_later_start(plan, epoch)
        if plan.adaptive is None:
            fit_checks.warn_of_impatience(plan, epoch, self._siblings)
        keeps_unfrozen = self.planner.keeps_unfrozen
        start = resume_point.starting_point(plan, epoch, keeps_unfrozen)
        if epoch == 0 and keeps_unfrozen and resume_point.is_known(plan.picture.model):
            self._say(
                [
                    f"{plan.owner}: this fit starts over from the head. To continue where the last "
                    "one ended, pass initial_epoch= to fit."
                ]
            )
        self._keep_first_values(plan, epoch)
        self._notes = TrainingNotes(WeightSamples.of(plan.picture))
        kind = ScheduleRun if plan.adaptive is None else AdaptiveRun
        return kind.begin(plan, start)

    def _keep_first_values(self, plan: FitPlan, epoch: int) -> None:
        """Keep the values at the beginning of the training, where it is asked for them."""
        logs, state = self._group_logs, state_of(plan.picture.model)
        if logs is None or not logs.compares_with_first_values:
            state.first_values = None if epoch == 0 else state.first_values
            return
        if epoch == 0:
            state.first_values = FirstValues()
        elif state.first_values is None:
            raise ArgumentError(
                plan.owner,
                "log_details",
                'have "weight_change" from the first epoch of a training on',
                received=f"a fit from epoch {epoch}, of a model whose first values are not known",
                advice="Ask for it in the fit from epoch 0 too, in the same process, or use "
                "keras_freeze.BackupAndRestore, which keeps them.",
            )
        logs.first_values = state.first_values

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Make a transition that is due in the middle of an epoch."""
        if self._run is None or self._cache is None:
            return
        lines = self._run.before_batch(batch)
        if lines:
            self._say(lines)
            self._cache.expect(self._run.next_transition)
        if self._own_view is not None:
            self._own_view.on_train_batch_begin(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the parameter counts to the logs, and see whether the phase is over."""
        if self._run is None:
            return
        logs = {} if logs is None else logs
        self._add_to(logs, self._run)
        if self._notes is not None:
            self._notes.add(epoch, logs)
        self._say(self._run.end_epoch(logs))
        resume_point.record(self._run, epoch + 1)
        if self._own_view is not None:
            self._own_view.on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leave the flags as they are and end the group rates."""
        if self._cache is not None:
            self._cache.end()
        self._record = self.record
        self._decisions = self.decisions
        if self._run is not None:
            self._say(self._run.finish())
            fit_checks.warn_of_files(self._run)
            if self._view is not None:
                self._view.settle(final_states(self._run))
        self._report = self.report
        if self._own_view is not None:
            self._own_view.on_train_end(logs)
        self._end()
        self._siblings = ()

    def _end(self) -> None:
        """Forget the last fit, also one that an error has ended."""
        self._plan = self._run = self._cache = self._group_logs = None
        self._view = self._own_view = None

    @property
    def present_curve(self) -> Curve | None:
        """The learning-rate curve of the present phase of a fit, None where there is none."""
        phase = self._run.progress.phase if self._run is not None else None
        return None if phase is None else phase.curve

    @property
    def record(self) -> ScheduleRecord | None:
        """What trained in this or the last fit, when and at which rates; None before the first."""
        return self._record if self._run is None else self._run.what_ran()

    @property
    def report(self) -> TrainingReport | None:
        """What this or the last fit brought, phase by phase, and what to try next."""
        if self._run is None or self._notes is None:
            return self._report
        is_race = self._run.plan.adaptive is not None and self._run.plan.adaptive.schedule.is_race
        decisions = self.decisions if is_race else None
        return training_report(
            self._run.what_ran(),
            self._notes.logs,
            self._notes.samples.moved(self._run.present_picture()),
            None if decisions is None else (decisions.verdict, decisions.freeze_depth),
        )

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
        return self._run.record() if isinstance(self._run, AdaptiveRun) else self._decisions

    def training_state(self) -> dict[str, Any]:
        """Return where this fit is, as plain data and arrays, for a backup."""
        run, logs = self._run, self._group_logs
        if run is None:
            return {"plan": None}
        first = None if logs is None else logs.first_values
        values = None if first is None else first.to_plain(run.model)
        notes = None if self._notes is None else self._notes.to_plain()
        state = run_state.to_plain(run, self._script(run.plan))
        return {**state, "first_values": values, "notes": notes}

    def check_training_state(self, state: Mapping[str, Any]) -> None:
        """Raise a `ValueError` if a backup was made by another schedule, or other arguments."""
        if self._plan is not None and state["plan"] is not None:
            run_state.check_script(self._plan, self._script(self._plan), state)

    def set_training_state(self, state: Mapping[str, Any]) -> None:
        """Continue from where a backup was made."""
        if self._plan is None or state["plan"] is None:
            return
        self._run = run_state.of_plain(self._plan, state)
        if self._group_logs is not None and state.get("first_values") is not None:
            model = self._plan.picture.model
            self._group_logs.first_values = FirstValues.of_plain(model, state["first_values"])
            state_of(model).first_values = self._group_logs.first_values
        self._notes = TrainingNotes.of_plain(state.get("notes"), self._plan.picture)
        # For a training that was complete, in which no epoch will record it.
        resume_point.record(self._run, state["epoch"])

    def _script(self, plan: FitPlan) -> dict[str, Any]:
        details = as_details(plan.owner, self.log_details)
        arguments = {
            "rates": dict(self.rates) if isinstance(self.rates, Mapping) else self.rates,
            "lora": self.lora,
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
                f"contain at most one {FreezeScheduler.__name__} or GradualUnfreeze",
                received=f"{self!r} and {others[0]!r}",
                advice="Put both plans into one.",
            )

    def _say(self, lines: Iterable[str]) -> None:
        if self._view is not None and self._view.is_on:
            self._view.say(lines, is_printed=bool(self.verbose))
        elif self.verbose:
            for line in lines:
                print(line)

    def _add_to(self, logs: dict[str, Any], run: ScheduleRun) -> None:
        logs["trainable_params"], logs["non_trainable_params"] = run.counts
        logs.update(run.labels)
        if self._group_logs is not None:
            logs.update(self._group_logs.of_epoch(run))


# Each transition makes a new train step on purpose.
expect_retracing_in_fits_with(FreezeScheduler)
