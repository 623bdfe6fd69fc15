"""What a running schedule tells a live view of its present phase."""

from __future__ import annotations

from keras_freeze.callbacks.schedule_run import ScheduleRun
from keras_freeze.live import GroupState, GroupStatus, PhaseStatus, group_states
from keras_freeze.model_picture import learning_rate_of
from keras_freeze.schedules import (
    Moment,
    OnPlateau,
    Trigger,
    When,
    end_of_phase,
    every_trigger,
)


def phase_status(run: ScheduleRun) -> PhaseStatus:
    """Return the present phase of a fit, for a moment at which a phase or an epoch may begin."""
    plan, progress = run.plan, run.progress
    trigger = progress.trigger
    now = Moment(run.epoch, run.batch)
    end = end_of_phase(progress, now, plan.epochs, plan.steps_per_epoch, plan.stride)
    is_adaptive = plan.adaptive is not None
    last = progress.schedule.phases[-1]
    return PhaseStatus(
        groups=_groups(run),
        index=progress.index,
        count=None if is_adaptive else len(progress.schedule.phases),
        ends="with the fit" if trigger is None else trigger.describe(),
        end=end,
        waits_for=_waits_for(trigger) if trigger is not None and end is None else "",
        note=_note(run),
        may_end_early=is_adaptive or last.trigger is not None,
    )


def final_states(run: ScheduleRun) -> dict[str, GroupState]:
    """Return by label what each group does after a fit."""
    picture = run.plan.picture
    states = group_states(picture)
    return {group.label: states[group.name] for group in picture.groups}


def _groups(run: ScheduleRun) -> tuple[GroupStatus, ...]:
    picture, rate = run.present_picture(), learning_rate_of(run.plan.picture.model)
    states, factors = group_states(picture), run.curve_factors()
    found = []
    for group in picture.groups:
        state, own = states[group.name], None
        if state is not GroupState.FROZEN:
            own = run.multipliers.get(group.name, 1.0) * factors.get(group.name, 1.0)
            own *= 1.0 if rate is None else rate
        found.append(
            GroupStatus(group.label, group.total_params, state, own, is_multiple=rate is None)
        )
    return tuple(found)


def _waits_for(trigger: Trigger) -> str:
    """Say which metrics decide when a phase ends; else what it is, where steps aren't counted."""
    names = []
    for part in every_trigger(trigger):
        if isinstance(part, OnPlateau):
            names.append(part.monitor)
        elif isinstance(part, When):
            names.append("a condition")
    return " and ".join(dict.fromkeys(names)) or trigger.describe().removeprefix("after ")


def _note(run: ScheduleRun) -> str:
    labels = run.labels
    if "freeze_depth" not in labels:
        return ""
    candidate = "candidate: " if "candidate" in labels else ""
    return f"{candidate}freeze depth {labels['freeze_depth']}"
