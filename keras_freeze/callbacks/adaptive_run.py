"""One `fit` under an adaptive schedule: what its phases brought, and the states that it keeps."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from keras_freeze.callbacks import transition_message
from keras_freeze.callbacks.fit_plan import Best, FitPlan, StartingPoint
from keras_freeze.callbacks.schedule_run import ScheduleRun
from keras_freeze.checks import ArgumentError, first_few
from keras_freeze.engine import recordings, snapshot
from keras_freeze.keras_internals.optimizers import SUMS
from keras_freeze.measures import Gauge, Look, NotMeasurableError
from keras_freeze.schedules import (
    AdaptivePlan,
    Decision,
    DecisionRow,
    Decisions,
    FreezeSchedule,
    Measured,
    Outcome,
    Phase,
    Progress,
    beginning,
    monitored,
    timeline,
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
        look: What a gauge has seen of each group, to compare with.
    """

    outcomes: list[Outcome] = dataclasses.field(default_factory=list)
    values: list[float] = dataclasses.field(default_factory=list)
    kept: dict[str, Kept] = dataclasses.field(default_factory=dict)
    look: Look = dataclasses.field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data and arrays."""
        kept = {
            name: [kept.state, kept.best and [getattr(kept.best, n) for n in _BEST_FIELDS]]
            for name, kept in self.kept.items()
        }
        outcomes = [[list(o.values), o.end, dict(o.changes)] for o in self.outcomes]
        look = {name: list(arrays) for name, arrays in self.look.items()}
        return {"outcomes": outcomes, "values": list(self.values), "kept": kept, "look": look}

    @classmethod
    def of_plain(cls, state: Mapping[str, Any]) -> Memory:
        """Return what `to_plain` returned as plain data."""
        outcomes = [Outcome(tuple(values), *rest) for values, *rest in state["outcomes"]]
        kept = {name: Kept(s, best and Best(*best)) for name, (s, best) in state["kept"].items()}
        look = {name: tuple(arrays) for name, arrays in state["look"].items()}
        return cls(outcomes, list(state["values"]), kept, look)


_BEST_FIELDS = tuple(field.name for field in dataclasses.fields(Best))


def schedule_so_far(plan: AdaptivePlan, outcomes: Sequence[Outcome] = ()) -> FreezeSchedule:
    """Return the phases that have run, and the one that follows if there is one."""
    decisions = [plan.decide(outcomes[:n]) for n in range(len(outcomes) + 1)]
    return FreezeSchedule([d.phase for d in decisions if d.phase is not None])


@dataclasses.dataclass
class AdaptiveRun(ScheduleRun):
    """The state of one fit whose phases are decided while it runs.

    Attributes:
        memory: What has been seen, and is kept.
        made: What was decided so far, as it follows from what has been seen.
        unmeasured: Names of groups that have been warned of, since they can't be measured.
    """

    memory: Memory = dataclasses.field(default_factory=Memory)
    made: list[Decision] = dataclasses.field(default_factory=list)
    unmeasured: set[str] = dataclasses.field(default_factory=set)
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
        outcomes = self.memory.outcomes
        while len(self.made) <= len(outcomes):  # decided once, since each batch asks
            self.made.append(_adaptive(self.plan).decide(outcomes[: len(self.made)]))
        return self.made

    @property
    def _is_final(self) -> bool:
        """Whether nothing is decided after the present phase."""
        return self.decisions[self.progress.index].is_final

    @property
    def begins_anew(self) -> bool:
        """Whether depths take turns."""
        return _adaptive(self.plan).schedule.is_race

    @property
    def best_by(self) -> tuple[str, str, float] | None:
        """The metric that decides, its direction and the least difference; None if none does."""
        found = _adaptive(self.plan).schedule.best_by
        return None if found is None else (*found, 0.0)

    @property
    def is_in_last_phase(self) -> bool:
        """Whether no phase will follow."""
        return self._is_final or (self._is_decided and self.decisions[-1].phase is None)

    @property
    def _is_decided(self) -> bool:
        """Whether it is decided what follows the present phase."""
        return len(self.memory.outcomes) > self.progress.index

    @property
    def records(self) -> frozenset[str]:
        """What the present phase records of gradients."""
        return super().records | ({SUMS} if self._sums_gradients else set())

    @property
    def _sums_gradients(self) -> bool:
        gauge = self.plan.gauge
        return gauge is not None and gauge.sums_gradients and not self._is_final

    @property
    def labels(self) -> dict[str, int]:
        """The freeze depth, and in a race the candidate that an epoch belongs to."""
        decision = self.decisions[self.progress.index]
        return {"freeze_depth": self._depth_of(decision), **dict(decision.labels)}

    @property
    def now(self) -> str:
        """The present moment, in a race with the depth that has its turn."""
        depth = f", depth {self.labels['freeze_depth']}" if self.begins_anew else ""
        return super().now + depth

    def _depth_of(self, decision: Decision) -> int:
        frozen = 0 if decision.phase is None else len(decision.phase.names)
        return _adaptive(self.plan).setting.depth(frozen)

    @property
    def ending(self) -> str:
        """What has ended the present phase: what was found, or its trigger if something changes."""
        then = self.decisions[self.progress.index + 1]
        if then.evidence:
            return first_few([one.what for one in then.evidence])
        return "" if _trains_alike(self.progress, then) else super().ending

    @property
    def next_transition(self) -> int | None:
        """The first epoch that is wholly behind the present phase; None where that isn't known."""
        phases = self.progress.schedule.phases[: self.progress.index + 1]
        if phases[-1].trigger is None:
            return self.plan.epochs
        schedule = FreezeSchedule([*phases, Phase()])
        moment = timeline(schedule, self.plan.steps_per_epoch, self.plan.stride)[-1]
        return None if moment is None else moment.epoch + (moment.step > 0)

    def record(self) -> Decisions:
        """Return what was decided so far, and by what."""
        rows: list[DecisionRow] = []
        measured: list[Measured] = []
        adaptive, seen, made = _adaptive(self.plan), self._seen(), self.decisions
        criterion = adaptive.schedule.criterion
        for n, outcome in enumerate(seen):
            label = f"depth {self._depth_of(made[n])}"
            first = outcome.end - len(outcome.values) + 1
            if self.best_by is not None:
                measured += [Measured(first + i, label, v) for i, v in enumerate(outcome.values)]
            if n + 1 < len(made):
                found, end = made[n + 1], outcome.end
                measured += [Measured(end, name, value) for name, value in found.measured]
                for f in found.evidence:
                    row = DecisionRow(end, f.what, f.value, f.threshold, f.metric or criterion)
                    rows.append(row)
        depth = self._depth_of(adaptive.conclude(seen)) if seen else self.labels["freeze_depth"]
        verdict = adaptive.verdict(seen)
        return Decisions(criterion, tuple(rows), tuple(measured), verdict, depth)

    @property
    def _epochs_done(self) -> float:
        steps = self.plan.steps_per_epoch
        return self.epoch + (self.batch / steps if steps else 1.0)

    def _seen(self) -> list[Outcome]:
        """Return the outcomes so far; the last is that of a phase that has not ended, if any.

        Where no epoch is the best, they are those that another phase has followed.
        """
        if self.best_by is None:
            return self.memory.outcomes[: self.progress.index]
        seen = list(self.memory.outcomes)
        if self.memory.values or not seen:
            seen.append(Outcome(tuple(self.memory.values), self._epochs_done))
        return seen

    def before_batch(self, batch: int) -> list[str]:
        """Decide and make the transition that is due in the middle of an epoch; return lines."""
        self.count_steps(batch)
        return [*self._decide(), *super().before_batch(batch)]

    def judge(self, logs: Mapping[str, Any]) -> list[str]:
        """Take an epoch into account, and decide what follows if the phase has ended."""
        metric = _adaptive(self.plan).schedule.monitor
        if metric is not None and not self._is_final:
            owner = self.plan.owner if self.best_by is None else self.asking[0]
            value = monitored(owner, metric, logs)
            self.memory.values.append(value)
            self._warn_unless_finite(metric, value)
        return self._decide()

    def _warn_unless_finite(self, metric: str, value: float) -> None:
        """Warn once that a metric is no number, which is never the best."""
        if not self.has_warned and not math.isfinite(value):
            self.has_warned = True
            warnings.warn(
                f"{self.plan.owner}: {metric} is {value} in epoch {self.epoch + 1}. Such "
                "an epoch is never the best. A lower learning rate or clipnorm= may help.",
                stacklevel=2,
            )

    def _decide(self) -> list[str]:
        """Decide what follows the present phase if it has ended; return lines to print."""
        if not self.progress.is_over or self._is_decided or self._is_final:
            return []
        outcome = Outcome(tuple(self.memory.values), self._epochs_done, self._changes())
        self.memory.outcomes.append(outcome)
        self.memory.values = []
        adaptive = _adaptive(self.plan)
        schedule = schedule_so_far(adaptive, self.memory.outcomes)
        self.progress = dataclasses.replace(self.progress, schedule=schedule)
        step = self.batch if self.batch < (self.plan.steps_per_epoch or 0) else 0
        when = transition_message.moment(self.epoch, self.plan.epochs, step)
        criterion = adaptive.schedule.criterion
        evidence = self.decisions[-1].evidence
        if self.best_by is None:  # what freezes is said when it freezes
            return []
        return [
            f"{when}: {transition_message.decided(found, found.metric or criterion)}"
            for found in evidence
        ]

    def _changes(self) -> dict[str, float]:
        """Return how much the groups that train have changed, and keep what is seen of them."""
        gauge, before = self.plan.gauge, self.memory.look
        if gauge is None:
            return {}
        now, changes = gauge.look(self.present_picture()), {}
        for name in _adaptive(self.plan).setting.groups[:-1]:
            if name in self.frozen:  # or nothing in it trains
                continue
            changes[name] = math.nan
            if name in before and name in now:
                try:
                    changes[name] = gauge.change(before[name], now[name])
                except NotMeasurableError as error:
                    self._warn_of_unmeasured(name, error)
        if not gauge.keeps_first:
            self.memory.look = now
        return changes

    def _warn_of_unmeasured(self, name: str, error: NotMeasurableError) -> None:
        """Warn, once for each group, that it can't be told how much it has changed."""
        if name not in self.unmeasured:
            self.unmeasured.add(name)
            warnings.warn(
                f"{self.plan.owner}: {name} keeps training, since it isn't known how much it has "
                f"changed: {error}",
                stacklevel=2,
            )

    def _look(self) -> None:
        """See what groups that begin to train now are to be compared with.

        Raises:
            ValueError: if a group can't be measured.
        """
        gauge, adaptive = self.plan.gauge, _adaptive(self.plan)
        if self._is_final:
            self.memory.look = {}
        if gauge is None or gauge.sums_gradients or self._is_final:
            return
        known = self.memory.look
        training = [name for name in adaptive.setting.groups[:-1] if name not in self.frozen]
        if not all(name in known for name in training):
            now = gauge.look(self.present_picture())
            self.memory.look = {**now, **{n: known[n] for n in training if n in known}}
            if not known:
                self._check_measurable(gauge, training)
        elif not gauge.keeps_first:
            self.memory.look = {name: known[name] for name in training}

    def _check_measurable(self, gauge: Gauge, names: Sequence[str]) -> None:
        for name in names:
            seen = self.memory.look.get(name)
            try:
                if seen is None:
                    raise NotMeasurableError("no output of it is known")
                gauge.change(seen, seen)
            except NotMeasurableError as error:
                raise ArgumentError(
                    self.plan.owner,
                    "criterion",
                    f"be one by which group {name!r} can be measured",
                    received=f"{gauge.title}: {str(error).rstrip('.')}",
                ) from error

    def _check_weights(self) -> None:
        """Raise if the model has other weights than the states that are kept."""
        model = self.plan.picture.model
        kept = next(iter(self.memory.kept.values()), None)
        if kept is not None and len(kept.state["weights"]) != len(model.weights):
            raise ValueError(
                f"{self.plan.owner}: model {model.name!r} must keep its weights while an adaptive "
                f"schedule keeps states of it. Received: {len(model.weights)} weights after "
                f"{len(kept.state['weights'])}. Call enable_lora or quantize before fit."
            )

    def enter(self, start: StartingPoint | None = None) -> list[str]:
        """Make the model ready for the present phase; return the line that says what changed."""
        before = self.frozen
        lines = super().enter(start)
        if before == self.frozen and start is None and not self.begins_anew:
            lines = []  # an interval ends, and nothing changes
        evidence = self.decisions[self.progress.index].evidence
        if lines and evidence and self.best_by is None:
            why = transition_message.reason(evidence, _adaptive(self.plan).schedule.criterion)
            lines[-1] = f"{lines[-1].rstrip('.')} ({why})."
        if self._sums_gradients:
            recordings.reset(self.model, SUMS)
        self._look()
        return lines

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
                self.enter()
        lines = self.restore_best("After training")
        return [*lines, f"After training: {adaptive.verdict(seen)}."]

    def carry_out(self, decision: Decision) -> list[str]:
        """Keep and restore states as a decision says; return lines to print."""
        self._check_weights()
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
            self.has_gone_back = True
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
