"""One `fit` under an adaptive schedule: what its phases brought, and the states that it keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from keras_freeze.callbacks import transition_message
from keras_freeze.callbacks.schedule_run import Best, FitPlan, ScheduleRun, StartingPoint
from keras_freeze.engine import snapshot
from keras_freeze.schedules import (
    AdaptivePlan,
    Decision,
    DecisionRow,
    Decisions,
    FreezeSchedule,
    Measured,
    Outcome,
    Progress,
    beginning,
    monitored,
)


@dataclasses.dataclass(frozen=True)
class Kept:
    """A state of the training.

    Attributes:
        state: What `snapshot.capture_all` returned.
        best: The best epoch of the training that led to it; None for none.
    """

    state: snapshot.State
    best: Best | None


@dataclasses.dataclass
class Memory:
    """What an adaptive schedule has seen in a fit, and keeps.

    Attributes:
        outcomes: What the phases that have ended brought.
        values: The monitored metric after each epoch of the present phase.
        kept: States of the training by name.
    """

    outcomes: list[Outcome] = dataclasses.field(default_factory=list)
    values: list[float] = dataclasses.field(default_factory=list)
    kept: dict[str, Kept] = dataclasses.field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data and arrays."""
        kept = {
            name: [kept.state, kept.best and [getattr(kept.best, n) for n in _BEST_FIELDS]]
            for name, kept in self.kept.items()
        }
        outcomes = [list(outcome.values) for outcome in self.outcomes]
        return {"outcomes": outcomes, "values": list(self.values), "kept": kept}

    @classmethod
    def of_plain(cls, state: Mapping[str, Any]) -> Memory:
        """Return what `to_plain` returned as plain data."""
        outcomes = [Outcome(tuple(values)) for values in state["outcomes"]]
        kept = {name: Kept(s, best and Best(*best)) for name, (s, best) in state["kept"].items()}
        return cls(outcomes, list(state["values"]), kept)


_BEST_FIELDS = tuple(field.name for field in dataclasses.fields(Best))


def decided(plan: AdaptivePlan, outcomes: Sequence[Outcome]) -> list[Decision]:
    """Return what was decided: the phases that have run, and what follows."""
    return [plan.decide(outcomes[:n]) for n in range(len(outcomes) + 1)]


def schedule_so_far(plan: AdaptivePlan, outcomes: Sequence[Outcome] = ()) -> FreezeSchedule:
    """Return the phases that have run, and the one that follows if there is one."""
    phases = [decision.phase for decision in decided(plan, outcomes)]
    return FreezeSchedule([phase for phase in phases if phase is not None])


@dataclasses.dataclass
class AdaptiveRun(ScheduleRun):
    """The state of one fit whose phases are decided while it runs.

    Attributes:
        memory: What has been seen, and is kept.
    """

    memory: Memory = dataclasses.field(default_factory=Memory)
    asking: ClassVar[tuple[str, str]] = ("Auto", "monitor")

    @classmethod
    def begin(cls, plan: FitPlan, start: StartingPoint) -> tuple[ScheduleRun, list[str]]:
        """Make the model ready for its first epoch; return the run and the lines to print."""
        adaptive = _adaptive(plan)
        first = dataclasses.replace(start, progress=beginning(schedule_so_far(adaptive)))
        run, lines = super().begin(plan, first)
        if isinstance(run, AdaptiveRun):
            run.carry_out(run.decisions[0])
        return run, lines

    @property
    def decisions(self) -> list[Decision]:
        """What was decided: the phases that have run, and what follows."""
        return decided(_adaptive(self.plan), self.memory.outcomes)

    @property
    def _is_final(self) -> bool:
        """Whether nothing is decided after the present phase."""
        return self.decisions[self.progress.index].is_final

    @property
    def begins_anew(self) -> bool:
        """Whether depths take turns."""
        return _adaptive(self.plan).schedule.is_race

    @property
    def best_by(self) -> tuple[str, str, float]:
        """The metric that decides, its direction and the least difference."""
        return *_adaptive(self.plan).schedule.best_by, 0.0

    @property
    def labels(self) -> dict[str, int]:
        """The freeze depth, and in a race the candidate that an epoch belongs to."""
        phase = self.decisions[self.progress.index].phase
        depth = len(phase.names) if phase is not None else 0
        return {"freeze_depth": depth, **dict(self.decisions[self.progress.index].labels)}

    @property
    def next_transition(self) -> int | None:
        """The first epoch that is wholly behind the present phase; None where that isn't known."""
        phase = self.progress.phase
        if phase is None or phase.trigger is None:
            return self.plan.epochs
        length = phase.trigger.length(1, 0)
        done = sum(len(outcome.values) for outcome in self.memory.outcomes)
        return None if length is None else done + length

    def record(self) -> Decisions:
        """Return what was decided so far, and by what."""
        rows: list[DecisionRow] = []
        measured: list[Measured] = []
        seen, made = self._seen(), self.decisions
        for n, outcome in enumerate(seen):
            phase = made[n].phase
            depth = 0 if phase is None else len(phase.names)
            begun = len(measured)  # each epoch has a value
            measured += [Measured(begun + i, depth, v) for i, v in enumerate(outcome.values)]
            for found in made[n + 1].findings if n + 1 < len(made) else ():
                rows.append(
                    DecisionRow(len(measured) - 1, found.what, found.value, found.threshold)
                )
        verdict = _adaptive(self.plan).verdict(seen)
        return Decisions(self.best_by[0], tuple(rows), tuple(measured), verdict)

    def _seen(self) -> list[Outcome]:
        """Return the outcomes so far; the last is that of a phase that has not ended, if any."""
        seen = list(self.memory.outcomes)
        if self.memory.values or not seen:
            seen.append(Outcome(tuple(self.memory.values)))
        return seen

    def judge(self, logs: Mapping[str, Any]) -> list[str]:
        """Take an epoch into account, and decide what follows if the phase has ended."""
        if self._is_final:
            return []
        metric = self.best_by[0]
        self.memory.values.append(monitored(self.asking[0], metric, logs))
        if not self.progress.is_over:
            return []
        self.memory.outcomes.append(Outcome(tuple(self.memory.values)))
        self.memory.values = []
        schedule = schedule_so_far(_adaptive(self.plan), self.memory.outcomes)
        self.progress = dataclasses.replace(self.progress, schedule=schedule)
        when = transition_message.moment(self.epoch, self.plan.epochs, 0)
        findings = self.decisions[-1].findings
        return [f"{when}: {transition_message.finding(found, metric)}" for found in findings]

    def leave(self) -> list[str]:
        """End a phase that another follows; return lines to print."""
        return self.carry_out(self.decisions[-1])

    def conclude(self) -> list[str]:
        """Go back to the best that was found, and say what it is; return the lines."""
        seen, adaptive = self._seen(), _adaptive(self.plan)
        if not self._is_final:
            decision = adaptive.conclude(seen)
            if decision.returns_to is not None and decision.phase is not None:
                self.carry_out(decision)
                self.progress = beginning(FreezeSchedule([decision.phase]))
                self.steps = 0
                self.enter(None)
        lines = self.restore_best("After training")
        return [*lines, f"After training: {adaptive.verdict(seen)}."]

    def carry_out(self, decision: Decision) -> list[str]:
        """Keep and restore states as a decision says; return lines to print."""
        lines, best = [], self.best
        if decision.restores_best:
            lines = self.restore_best(self.now)
            best = None if best is None else dataclasses.replace(best, steps=self.steps)
        if best is not None:  # in the phase that begins now
            best = dataclasses.replace(best, steps=0 if best.steps == self.steps else -1)
        if decision.keeps is not None:
            self.memory.kept[decision.keeps] = self._kept(best)
        if decision.returns_to is not None:
            kept = self.memory.kept[decision.returns_to]
            # The learning rate stays, since other callbacks may have changed it on purpose.
            snapshot.restore_all(self.model, kept.state, None, learning_rate=False)
            best = kept.best
        elif not _trains_alike(self.progress, decision):
            best = None
        self.best = best
        for name in decision.forgets:
            self.memory.kept.pop(name, None)
        return lines

    def _kept(self, best: Best | None) -> Kept:
        """Capture the present state; what other kept states have too is kept once."""
        state = snapshot.capture_all(self.model)
        for other in self.memory.kept.values():
            state["weights"] = _shared(state["weights"], other.state["weights"])
        if best is not None and best.steps == 0:  # which is this state
            best = dataclasses.replace(best, state=state)
        elif best is not None:
            weights = _shared(best.state["weights"], state["weights"])
            best = dataclasses.replace(best, state={**best.state, "weights": weights})
        return Kept(state, best)


def _adaptive(plan: FitPlan) -> AdaptivePlan:
    if plan.adaptive is None:
        raise TypeError("An AdaptiveRun needs the plan of an adaptive schedule.")
    return plan.adaptive


def _trains_alike(progress: Progress, decision: Decision) -> bool:
    now, then = progress.phase, decision.phase
    return now is not None and then is not None and now.frozen == then.frozen


def _shared(arrays: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return arrays; where another equals one to the bit, that one in its place."""
    shared = []
    for array, other in zip(arrays, others, strict=True):
        is_same = array is other or array.tobytes() == other.tobytes()
        shared.append(other if is_same else array)
    return shared
