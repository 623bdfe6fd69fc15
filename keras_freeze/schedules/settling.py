"""Freeze groups from the input up as they settle, and unfreeze them if that did harm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from keras_freeze.checks import ArgumentError, counted
from keras_freeze.schedules.adaptive import (
    AdaptiveSchedule,
    Decision,
    Evidence,
    Outcome,
    Setting,
    depth_in_words,
)
from keras_freeze.schedules.metrics import Direction, improves
from keras_freeze.schedules.phase import Phase
from keras_freeze.schedules.schedule import FreezeSchedule
from keras_freeze.schedules.triggers import AfterSteps


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How much worse a metric may get before groups unfreeze again.

    Attributes:
        metric: Str, its name in the logs.
        direction: `"min"` if it is to fall, `"max"` if it is to rise.
        margin: Float, in its units.
    """

    metric: str
    direction: Direction
    margin: float

    def limit(self, best: float) -> float:
        """Return the worst value that is tolerated after a best one."""
        return best + self.margin if self.direction == "min" else best - self.margin


@dataclasses.dataclass(frozen=True)
class Settling(AdaptiveSchedule):
    """Freeze, after each interval, the groups below the lowest that still changes.

    The threshold is a percentile of the changes of the groups that train, but for the last, which
    never freezes. A group whose change is NaN still changes, and one that has none is one in which
    nothing trains, which freezes with those around it.

    Args:
        intervals: Int, how many the training is divided into: as many as it has batches, at most.
        percentile: Float, from 0 to 100.
        min_trainable: Int, how many groups always train.
        warm_up: Int, after how many intervals groups may freeze.
        title: Str, what changes are of, in words.
        identity: Str, the same for all and only those that measure alike.
        tolerance: When groups that froze unfreeze again; None for never.
    """

    intervals: int
    percentile: float
    min_trainable: int
    warm_up: int
    title: str
    identity: str
    tolerance: Tolerance | None = None

    @property
    def criterion(self) -> str:
        """What is compared."""
        return self.title

    @property
    def best_by(self) -> tuple[str, Direction] | None:
        """The metric by which an epoch is the best: none, since all go on."""
        return None

    @property
    def monitor(self) -> str | None:
        """The metric whose values decisions see."""
        return None if self.tolerance is None else self.tolerance.metric

    @property
    def is_race(self) -> bool:
        """Whether several trainings take turns: there is one."""
        return False

    def outline(self, setting: Setting) -> FreezeSchedule:
        """Return the first interval, in which everything trains."""
        is_known = setting.steps_per_epoch is not None
        steps = self._steps(setting, ()) if is_known else None
        return FreezeSchedule([self._phase(setting, 0, steps)])

    @property
    def prospect(self) -> str:
        """How it is decided what freezes, in a sentence."""
        return (
            f"After each of {counted(self.intervals, 'interval')} those groups freeze, from the "
            f"input up, that have settled ({self.title})."
        )

    def decide(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return what follows the intervals that have ended."""
        depths = [0]  # that of the present interval, behind those before groups froze
        changes: Mapping[str, float] = {}
        evidence: tuple[Evidence, ...] = ()
        best: float | None = None
        only_records = max(1, self.warm_up)
        for n, outcome in enumerate(outcomes, 1):
            changes = self._changes(setting, depths[-1], outcome) if n > only_records else {}
            evidence = ()
            if outcome.end >= setting.epochs:  # so that nothing follows
                break
            best, worse = self._judge(best, outcome)
            if worse is not None and len(depths) > 1:
                if math.isfinite(worse.value):
                    best = worse.value  # to compare with, so that each loss is answered once
                depth, only_records = depths.pop(), n + 1
                again = setting.groups[depths[-1] : depth]
                evidence = tuple(dataclasses.replace(worse, what=f"{g} unfreezes") for g in again)
                continue
            depth, evidence = self._freezing(setting, depths[-1], changes)
            if evidence:
                depths.append(depth)
        depth = depths[-1]
        is_last = len(outcomes) + 1 >= self._count(setting)
        if self.tolerance is None:
            is_last |= depth >= self._deepest(setting)
        return Decision(
            self._phase(setting, depth, None if is_last else self._steps(setting, outcomes)),
            is_final=is_last,
            evidence=evidence,
            measured=tuple(changes.items()),
        )

    def conclude(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return the present phase: nothing is undone."""
        return self.decide(setting, outcomes)

    def verdict(self, setting: Setting, outcomes: Sequence[Outcome]) -> str:
        """Return how deep the model ends frozen."""
        phase = self.decide(setting, outcomes).phase
        text = depth_in_words(setting, len(phase.names) if phase is not None else 0)
        return text + self._why_nothing(setting, outcomes)

    def _why_nothing(self, setting: Setting, outcomes: Sequence[Outcome]) -> str:
        """Say why nothing froze; "" where something did, or nothing may."""
        made = [self.decide(setting, outcomes[: n + 1]) for n in range(len(outcomes))]
        if any(decision.evidence for decision in made) or not self._deepest(setting):
            return ""
        lowest = setting.groups[0]
        seen = [dict(d.measured).get(lowest, math.nan) for d in made if d.measured]
        if not seen:
            return "; nothing froze, since no interval was compared with one before"
        if len(setting.groups) == 2:
            return f"; nothing froze, since {lowest} is the only group below the head"
        if not all(map(math.isfinite, seen)):
            return ""
        return (
            f"; nothing froze, since {lowest} changed at least as much as percentile "
            f"{self.percentile:g} of the groups below the head, {counted(len(seen), 'time')} of "
            f"{len(seen)}"
        )

    def _deepest(self, setting: Setting) -> int:
        return max(0, len(setting.groups) - self.min_trainable)

    def _changes(self, setting: Setting, depth: int, outcome: Outcome) -> dict[str, float]:
        """Return the change of each group that trains, but for the last group."""
        names = setting.groups[depth:-1]
        return {name: outcome.changes[name] for name in names if name in outcome.changes}

    def _freezing(
        self, setting: Setting, depth: int, changes: Mapping[str, float]
    ) -> tuple[int, tuple[Evidence, ...]]:
        """Return how many groups are frozen after an interval, which freeze now, and by what."""
        known = [change for change in changes.values() if math.isfinite(change)]
        if not known:
            return depth, ()
        threshold = float(np.percentile(known, self.percentile))
        able = setting.groups[depth : self._deepest(setting)]
        changing = [name for name in able if name in changes and not changes[name] < threshold]
        settled = able[: able.index(changing[0])] if changing else able
        evidence = (
            Evidence(f"{name} freezes", changes[name], threshold)
            for name in settled
            if name in changes
        )
        return depth + len(settled), tuple(evidence)

    def _judge(self, best: float | None, outcome: Outcome) -> tuple[float | None, Evidence | None]:
        """Return the best value so far, and whether the last is worse than may be."""
        if self.tolerance is None or not outcome.values:
            return best, None
        last, direction = outcome.values[-1], self.tolerance.direction
        for value in outcome.values:
            if improves(value, best, 0.0, direction):
                best = value
        if best is None:
            return best, None
        limit = self.tolerance.limit(best)
        if last == limit or improves(last, limit, 0.0, direction):
            return best, None
        return best, Evidence("", last, limit, self.tolerance.metric)

    def _count(self, setting: Setting) -> int:
        """Return how many intervals there are."""
        steps = setting.steps_per_epoch
        if steps is None:
            raise ArgumentError(
                "AutoFreeze",
                "intervals",
                "be of data whose length is known",
                received="a fit that doesn't know how many batches an epoch has",
                advice="Pass steps_per_epoch= to fit, or give a tf.data.Dataset its cardinality.",
            )
        return min(self.intervals, setting.epochs * steps)

    def _steps(self, setting: Setting, outcomes: Sequence[Outcome]) -> int:
        """Return the batches of the next interval: those to the next of equal parts.

        Executions of several batches end where they end, and the next interval makes up for it.
        """
        steps, number = setting.steps_per_epoch or 1, len(outcomes) + 1
        done = round(outcomes[-1].end * steps) if outcomes else 0
        end = math.ceil(number * setting.epochs * steps / self._count(setting))
        return max(1, end - done)

    def _phase(self, setting: Setting, depth: int, steps: int | None) -> Phase:
        until = None if steps is None else AfterSteps(steps)
        return Phase(setting.groups[:depth], until=until, batch_norm=setting.batch_norm)
