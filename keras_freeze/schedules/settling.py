"""Freeze groups from the input up as they settle, by a criterion that training itself gives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from keras_freeze.checks import ArgumentError
from keras_freeze.schedules.adaptive import (
    AdaptiveSchedule,
    Decision,
    Finding,
    Outcome,
    Setting,
    depth_in_words,
)
from keras_freeze.schedules.metrics import Direction
from keras_freeze.schedules.phase import Phase
from keras_freeze.schedules.schedule import FreezeSchedule
from keras_freeze.schedules.triggers import AfterSteps


@dataclasses.dataclass(frozen=True)
class Settling(AdaptiveSchedule):
    """Freeze, after each interval, the groups below the lowest that still changes.

    How much a group changes is the relative change of what was measured in two intervals. The
    threshold is a percentile over the groups that train, but for the last, which never freezes.

    Args:
        intervals: Int, how many of equal length the training is divided into.
        percentile: Float, from 0 to 100.
        min_trainable: Int, how many groups always train.
        warm_up: Int, after how many intervals groups may freeze.
    """

    intervals: int
    percentile: float
    min_trainable: int
    warm_up: int

    @property
    def best_by(self) -> tuple[str, Direction] | None:
        """The metric that decides: none."""
        return None

    @property
    def criterion(self) -> str:
        """What is compared."""
        return "change of the gradient's norm"

    @property
    def sums_gradients(self) -> bool:
        """Whether the gradients of each phase are added up: they are."""
        return True

    @property
    def is_race(self) -> bool:
        """Whether several trainings take turns: there is one."""
        return False

    def outline(self, setting: Setting) -> FreezeSchedule:
        """Return the first interval, in which everything trains."""
        return FreezeSchedule([self._phase(setting, 0, None)])

    def decide(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return what follows the intervals that have ended."""
        depth = 0
        changes: dict[str, float] = {}
        findings: tuple[Finding, ...] = ()
        for n in range(len(outcomes)):
            changes = self._changes(setting, depth, outcomes[: n + 1])
            depth, findings = self._next(setting, depth, changes)
        is_last = len(outcomes) + 1 >= self.intervals or depth >= self._deepest(setting)
        steps = None if is_last else self._steps(setting)
        return Decision(
            self._phase(setting, depth, steps),
            is_final=is_last,
            findings=findings,
            measured=tuple(changes.items()),
        )

    def conclude(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return the present phase: nothing is undone."""
        return self.decide(setting, outcomes[:-1])

    def verdict(self, setting: Setting, outcomes: Sequence[Outcome]) -> str:
        """Return how deep the model ends frozen."""
        phase = self.decide(setting, outcomes).phase
        return depth_in_words(setting.groups, len(phase.names) if phase is not None else 0)

    def _deepest(self, setting: Setting) -> int:
        return len(setting.groups) - self.min_trainable

    def _changes(
        self, setting: Setting, depth: int, outcomes: Sequence[Outcome]
    ) -> dict[str, float]:
        """Return the relative change of each group that trains, but for the last group."""
        if len(outcomes) <= max(1, self.warm_up):
            return {}
        before, after = outcomes[-2].measures, outcomes[-1].measures
        changes = {}
        for name in setting.groups[depth:-1]:
            if name in before and name in after:
                old, new = before[name], after[name]
                changes[name] = abs(old - new) / old if old else 0.0
        return changes

    def _next(
        self, setting: Setting, depth: int, changes: Mapping[str, float]
    ) -> tuple[int, tuple[Finding, ...]]:
        """Return how many groups are frozen after an interval, and by what."""
        if not changes:
            return depth, ()
        threshold = float(np.percentile([*changes.values()], self.percentile))
        frozen: list[Finding] = []
        for name, change in changes.items():
            if change >= threshold or depth + len(frozen) >= self._deepest(setting):
                break
            frozen.append(Finding(f"{name} freezes", change, threshold))
        return depth + len(frozen), tuple(frozen)

    def _steps(self, setting: Setting) -> int:
        steps = setting.steps_per_epoch
        if steps is None:
            raise ArgumentError(
                "AutoFreeze",
                "intervals",
                "be of data whose length is known",
                received="a fit that doesn't know how many batches an epoch has",
                advice="Pass steps_per_epoch= to fit, or give a tf.data.Dataset its cardinality.",
            )
        return max(1, math.ceil(setting.epochs * steps / self.intervals))

    def _phase(self, setting: Setting, depth: int, steps: int | None) -> Phase:
        until = None if steps is None else AfterSteps(steps)
        return Phase(setting.groups[:depth], until=until, batch_norm=setting.batch_norm)
