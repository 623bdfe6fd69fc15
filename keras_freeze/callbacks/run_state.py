"""The state of one fit as plain data and arrays, for a backup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_freeze.callbacks.adaptive_run import AdaptiveRun, Memory, schedule_so_far
from keras_freeze.callbacks.fit_plan import Best, FitPlan
from keras_freeze.callbacks.run_record import RunRecord
from keras_freeze.callbacks.schedule_run import ScheduleRun
from keras_freeze.checks import ArgumentError
from keras_freeze.policies import KeepFrozen, keep_frozen_policy
from keras_freeze.schedules import Progress, fingerprint

#: What is part of a script, but not of one that an earlier version wrote.
_OF_EARLIER_VERSIONS: dict[str, Any] = {
    "lora": "adapters",
    "adaptive": None,
    "log_details": [],
    "keep_frozen": [],
}


def script_of(plan: FitPlan, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same in a script that continues from a backup.

    Args:
        plan: What was decided before the fit.
        arguments: Arguments of the callback that the plan doesn't show.
    """
    numbers = {id(v): n for n, v in enumerate(plan.picture.model.weights)}
    groups = plan.picture.groups
    return {
        "schedule": fingerprint(plan.schedule),
        "adaptive": plan.adaptive and plan.adaptive.identity,
        "groups": {group.name: [numbers[id(v)] for v in group.variables] for group in groups},
        **arguments,
    }


def numbers_of(plan: FitPlan, keep_frozen: KeepFrozen | None) -> list[int]:
    """Return which of the model's weights never unfreeze, by their numbers."""
    if keep_frozen is None:
        return []
    kept = keep_frozen_policy(plan.owner, keep_frozen).select_in(plan.picture).variables
    return [n for n, v in enumerate(plan.picture.model.weights) if id(v) in kept]


def to_plain(run: ScheduleRun, script: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a fit whose script is this."""
    return {
        "plan": script,
        "total_epochs": run.plan.total_epochs,
        "epoch": run.epoch + 1,
        "progress": [run.progress.index, run.progress.state],
        "steps": run.steps,
        "kept": sorted(run.kept),
        "frozen": list(run.frozen),
        "multipliers": dict(run.multipliers),
        "counts": list(run.counts),
        "best": run.best and [run.best.value, run.best.epoch, run.best.steps, run.best.state],
        "adaptive": run.memory.to_plain() if isinstance(run, AdaptiveRun) else None,
        "so_far": run.so_far.to_plain(),
    }


def of_plain(plan: FitPlan, state: Mapping[str, Any]) -> ScheduleRun:
    """Return the fit with this plan that `to_plain` was called with."""
    index, trigger = state["progress"]
    arguments: dict[str, Any] = {
        "epoch": state["epoch"] - 1,
        "batch": 0,
        "steps": state["steps"],
        "kept": frozenset(state["kept"]),
        "frozen": tuple(state["frozen"]),
        "multipliers": dict(state["multipliers"]),
        "counts": (state["counts"][0], state["counts"][1]),
        "best": state["best"] and Best(*state["best"]),
        "so_far": RunRecord.of_plain(state.get("so_far") or RunRecord().to_plain()),
    }
    if plan.adaptive is None:
        return ScheduleRun(plan, Progress(plan.schedule, index, trigger), **arguments)
    memory = Memory.of_plain(state["adaptive"])
    progress = Progress(schedule_so_far(plan.adaptive, memory.outcomes), index, trigger)
    return AdaptiveRun(plan, progress, **arguments, memory=memory)


def check_script(plan: FitPlan, script: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a backup was made by another script."""
    made_with = {**_OF_EARLIER_VERSIONS, **state["plan"]}
    for name, own in script.items():
        if made_with[name] != own:
            total, before = plan.total_epochs, state.get("total_epochs")
            how = "epochs" if plan.adaptive is not None else "total_epochs"
            rule = "be that of the backup"
            if before not in (None, total):
                rule += (
                    f", which was made in a training of {before} epochs, and this one has {total}: "
                    f"pass {how}={before} to keep it"
                )
            raise ArgumentError(
                plan.owner,
                "schedule" if name == "adaptive" else name,
                rule,
                received=f"{own}, but the backup was made with {made_with[name]}",
                advice="Restore the script as it was, or delete the backup to start over.",
            )
