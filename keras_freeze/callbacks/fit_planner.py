"""What a callback's arguments come to on a model, in a fit or without one."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import keras

from keras_freeze.callbacks import plan_checks
from keras_freeze.callbacks.fit_plan import FitPlan
from keras_freeze.checks import ArgumentError, check_count
from keras_freeze.engine import state_of, transition
from keras_freeze.groups import Backbone, Groups, picture_of
from keras_freeze.measures import Gauge
from keras_freeze.model_picture import ModelPicture, check_model, with_initial_values
from keras_freeze.policies import KeepFrozen, kept_by_lora, phase_flags, with_kept_frozen
from keras_freeze.schedules import (
    FreezeSchedule,
    Phase,
    Planner,
    Rates,
    SchedulePreview,
    preview_in,
)


def nothing_pretrained(owner: str, model: keras.Model) -> str:
    """Say that everything in a model counts as new."""
    return (
        f"{owner}: nothing in model {model.name!r} is pretrained, as the values of its biases and "
        "BatchNormalization layers show (or have shown, before an earlier fit), so that all of it "
        "trains from the first step. If part of it is pretrained, or was loaded since, pass "
        "backbone=."
    )


@dataclasses.dataclass(frozen=True, eq=False)
class FitPlanner:
    """The arguments of a callback that say what to train, to be laid out on a model.

    Attributes:
        owner: Str, the callback in whose name errors are raised.
        given: The schedule as it was given.
        planner: What makes a schedule of it.
        groups: How to divide the model.
        backbone: What is pretrained.
        keep_frozen: What never unfreezes.
        lora: What of `enable_lora`'s freezing is undone.
        rates: Learning rates for phases that have none of their own.
        total_epochs: Int, the epochs of the whole training; None for those of the fit.
        gauge: What measures how much groups change; None where nothing depends on that.
        records: What every phase records of gradients.
    """

    owner: str
    given: Any
    planner: Planner
    groups: Groups | None
    backbone: Backbone | None
    keep_frozen: KeepFrozen | None
    lora: Literal["adapters", "with_base"]
    rates: Rates
    total_epochs: int | None
    gauge: Gauge | None
    records: frozenset[str]

    def picture(self, model: keras.Model) -> ModelPicture:
        """Return the picture of a model, with what never trains."""
        check_model(self.owner, model)
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
        return with_kept_frozen(picture, self.owner, self.keep_frozen)

    def plan(self, model: keras.Model, epochs: int, steps: int | None) -> FitPlan:
        """Return the plan for a fit; raise if it can't be carried out."""
        total, picture = self.total_epochs or epochs, self.picture(model)
        plan_checks.refuse_several_workers(self.owner, model)
        plan_checks.refuse_quantized_lora(self.owner, picture)
        plan = FitPlan(
            owner=self.owner,
            picture=picture,
            schedule=self.planner.plan(picture, total, steps),
            epochs=epochs,
            total_epochs=total,
            steps_per_epoch=steps,
            stride=getattr(model, "steps_per_execution", 1),
            rates=self.rates,
            adaptive=self.planner.adaptive(picture, total, steps),
            gauge=self.gauge,
            records=self.records,
        )
        plan_checks.check_schedule(plan)
        plan_checks.check_optimizers(plan)
        return plan

    def preview(
        self, model: keras.Model, epochs: int, steps: int | None, batch_size: int | None
    ) -> SchedulePreview:
        """Return a table of what a fit will do."""
        check_count("preview", "epochs", epochs)
        plan = self.plan(model, epochs, steps)
        remarks = [*self.planner.remarks(plan.picture, plan.total_epochs)]
        if plan.adaptive is not None:
            remarks.append(plan.adaptive.schedule.prospect)
        if self.planner.finds_nothing_pretrained(plan.picture):
            remarks.append(nothing_pretrained(self.owner, model))
        return preview_in(
            plan.schedule,
            plan.picture,
            epochs,
            steps_per_epoch=steps,
            rates=self.rates,
            is_open=plan.adaptive is not None,
            remarks=remarks,
            batch_size=batch_size,
        )

    def starts(self, model: keras.Model, epochs: int, steps: int | None) -> tuple[int | None, ...]:
        """Return the epoch (0-based) in which each phase begins, None where that is open."""
        check_count("phase_starts", "epochs", epochs)
        picture, total = self.picture(model), self.total_epochs or epochs
        if self.planner.adaptive(picture, epochs) is not None:
            return 0, None
        return self.planner.plan(picture, total, steps).starts(steps)

    def schedule(self, model: keras.Model, epochs: int, steps: int | None) -> FreezeSchedule:
        """Return what a fit will do, as a schedule with the rates of each phase."""
        check_count(self.owner, "epochs", epochs)
        picture, total = self.picture(model), self.total_epochs or epochs
        self._refuse_adaptive(picture, epochs, "planned")
        schedule = self.planner.plan(picture, total, steps)
        phases: list[Phase] = []
        for phase, epoch in zip(schedule.phases, schedule.starts(), strict=True):
            phase.policy(picture.division).sketch_in(picture)
            if phase.rates is None:
                phase = dataclasses.replace(phase, rates=self.rates)
            if epoch is None or epoch < total or not phases:
                phases.append(phase)
        counts = tuple((group.name, group.total_params) for group in picture.groups)
        return FreezeSchedule(phases, schedule.start, counts)

    def prepare(self, model: keras.Model, phase: int, epochs: int | None) -> None:
        """Set a model's flags as they are in a phase."""
        picture = self.picture(model)
        total = epochs or self.total_epochs or len(picture.groups)
        self._refuse_adaptive(picture, total, "prepared for")
        planned = self.planner.plan(picture, total).phases[phase]
        if planned.decides_late:
            raise ArgumentError(
                self.owner,
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
                self.owner,
                "schedule",
                f"be known before training to be {verb}",
                value=self.given,
                advice="After a fit, its history has the freeze depth; write a schedule with that.",
            )
