"""A fit under a schedule: what is made when it begins and forgotten when it ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_freeze.callbacks.adaptive_run import AdaptiveRun
from keras_freeze.callbacks.first_values import FirstValues
from keras_freeze.callbacks.fit_plan import FitPlan, StartingPoint
from keras_freeze.callbacks.group_logs import GroupLogs
from keras_freeze.callbacks.schedule_run import ScheduleRun
from keras_freeze.engine import state_of
from keras_freeze.findings import constant_rate
from keras_freeze.live import LiveView
from keras_freeze.prefix_cache import CacheDriver
from keras_freeze.schedules import Decisions, ScheduleRecord
from keras_freeze.training_reports import (
    TrainingNotes,
    TrainingReport,
    WeightSamples,
    training_report,
)


@dataclasses.dataclass(frozen=True)
class FitResults:
    """What is known of a fit when it has ended.

    Attributes:
        record: `schedules.ScheduleRecord`, what trained when; None of a fit without epochs.
        report: `TrainingReport`, what it brought.
        decisions: `schedules.Decisions` of an adaptive schedule.
    """

    record: ScheduleRecord | None = None
    report: TrainingReport | None = None
    decisions: Decisions | None = None


@dataclasses.dataclass(eq=False)
class RunningFit:
    """A fit that runs.

    Attributes:
        plan: What is decided before it.
        cache: What computes frozen layers once.
        group_logs: What its logs tell of each group.
        view: `LiveView` in which its lines stand, None where they are printed.
        run: Where it is in its schedule; None before its first epoch.
        notes: What its report needs to know; None before its first epoch.
        is_resumed: Bool, whether it has been restored from a backup and not begun an epoch since.
    """

    plan: FitPlan
    cache: CacheDriver
    group_logs: GroupLogs
    view: LiveView | None
    run: ScheduleRun | None = None
    notes: TrainingNotes | None = None
    is_resumed: bool = False

    def begin(self, start: StartingPoint) -> list[str]:
        """Begin with the first epoch; return lines on what changed."""
        self.notes = TrainingNotes(WeightSamples.of(self.plan.picture))
        kind = ScheduleRun if self.plan.adaptive is None else AdaptiveRun
        self.run, lines = kind.begin(self.plan, start)
        return lines

    def end_epoch(self, epoch: int, logs: dict[str, Any]) -> None:
        """Add to the logs of an epoch what there is to say of it, and note its losses."""
        run = self.present_run
        logs["trainable_params"], logs["non_trainable_params"] = run.counts
        logs.update(run.labels)
        logs.update(self.group_logs.of_epoch(run))
        if self.notes is not None:
            self.notes.add(epoch, logs)

    @property
    def present_run(self) -> ScheduleRun:
        """Where it is in its schedule, in and after its first epoch."""
        if self.run is None:
            raise RuntimeError("the first epoch has not begun")
        return self.run

    @property
    def record(self) -> ScheduleRecord | None:
        """What trained so far, when and at which rates."""
        return None if self.run is None else self.run.what_ran()

    @property
    def report(self) -> TrainingReport | None:
        """What it brought so far, phase by phase, and what to try next."""
        if self.run is None or self.notes is None:
            return None
        decisions = self.decisions if self.plan.is_race else None
        return training_report(
            self.run.what_ran(),
            self.notes.logs,
            self.notes.samples.moved(self.run.present_picture()),
            None if decisions is None else (decisions.verdict, decisions.freeze_depth),
            self.plan.last_begins,
            self._finder,
        )

    @property
    def _finder(self) -> str:
        """The code that finds a learning rate for a fit like this, which has to know its phases."""
        schedule = ", schedule=callback"
        if self.plan.adaptive is not None:
            is_gradual = self.plan.adaptive.schedule.best_by is not None
            schedule = ", schedule=kf.GradualUnfreeze()" if is_gradual else ""
        code = f"kf.find_learning_rate(model, x, y{schedule})"
        if constant_rate(self.plan.picture.model) is None:
            return f"{code}, compiled with one number as the learning rate"
        return code

    @property
    def decisions(self) -> Decisions | None:
        """What an adaptive schedule has decided so far; None for one that is given."""
        return self.run.record() if isinstance(self.run, AdaptiveRun) else None

    def notes_to_plain(self) -> dict[str, Any]:
        """Return what is known of the training so far, beside where it is, as plain data."""
        first, model = self.group_logs.first_values, self.plan.picture.model
        return {
            "first_values": None if first is None else first.to_plain(model),
            "notes": None if self.notes is None else self.notes.to_plain(),
        }

    def take_notes(self, state: Mapping[str, Any]) -> None:
        """Go on with what `notes_to_plain` returned."""
        model, values = self.plan.picture.model, state.get("first_values")
        if values is not None:
            self.group_logs.first_values = FirstValues.of_plain(model, values)
            state_of(model).first_values = self.group_logs.first_values
        self.notes = TrainingNotes.of_plain(state.get("notes"), self.plan.picture)
