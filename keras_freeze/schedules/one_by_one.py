"""One more group at a time, as long as each brings a gain."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

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
from keras_freeze.schedules.scores import Metric
from keras_freeze.schedules.triggers import Trigger

# The name under which the best state is kept.
_BEST = "best"


@dataclasses.dataclass(frozen=True)
class OneByOne(AdaptiveSchedule):
    """Unfreeze one more group each time that training stalls, until that brings no gain.

    Args:
        metric: What decides.
        until: What ends a phase.
        patience: Int, positive, after how many groups without gain it ends.
        then: `"continue"` or `"stop"`, as for `Auto`.
    """

    metric: Metric
    until: Trigger
    patience: int
    then: Literal["continue", "stop"]

    @property
    def best_by(self) -> tuple[str, Direction]:
        """The metric that decides, and whether it is to fall or to rise."""
        return self.metric.name, self.metric.direction

    @property
    def is_race(self) -> bool:
        """Whether several trainings take turns: there is one."""
        return False

    def outline(self, setting: Setting) -> FreezeSchedule:
        """Return the phases as they are if every group brings a gain."""
        depths = range(len(setting.groups) - 1, -1, -1)
        return FreezeSchedule([self._phase(setting, depth, self.until) for depth in depths])

    def decide(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return what follows the phases that have ended."""
        deepest, ran = len(setting.groups) - 1, len(outcomes)
        if not ran:
            return Decision(self._phase(setting, deepest, self.until))
        values = self._values(outcomes)
        gains = self.metric.gains(values)
        depth, last = self._best_depth(setting, gains), deepest - (ran - 1)
        threshold = self.metric.best(values[:-1]) if ran > 1 else None
        what = f"{setting.groups[last]} {'unfrozen' if ran > 1 else 'alone'}"
        findings: tuple[Finding, ...] = (Finding(what, values[-1], threshold),)
        is_over = depth - last >= self.patience or last == 0
        keeps = _BEST if gains[-1] else None
        if not is_over:
            phase = self._phase(setting, deepest - ran, self.until)
            return Decision(phase, restores_best=True, keeps=keeps, findings=findings)
        findings += (Finding(f"depth {depth} is the best", self.metric.best(values)),)
        goes_on = self.then == "continue"
        return Decision(
            self._phase(setting, depth, None) if goes_on else None,
            is_final=True,
            restores_best=gains[-1],
            keeps=keeps,
            returns_to=None if gains[-1] else _BEST,
            findings=findings,
        )

    def conclude(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return the best state if the last group has brought no gain so far."""
        gains = self.metric.gains(self._values(outcomes))
        phase = self._phase(setting, self._best_depth(setting, gains), None)
        return Decision(phase, is_final=True, returns_to=None if gains[-1] else _BEST)

    def verdict(self, setting: Setting, outcomes: Sequence[Outcome]) -> str:
        """Return the best depth, and what the group below it brought."""
        values = self._values(outcomes)
        depth = self._best_depth(setting, self.metric.gains(values))
        text = f"{depth_in_words(setting.groups, depth)}; {self.metric.name} {values[0]:.4g} alone"
        for n in range(1, len(values)):
            group, change = setting.groups[-1 - n], values[n] - self.metric.best(values[:n])
            text += f", {change:+.2g} by unfreezing {group}"
        return text

    def _values(self, outcomes: Sequence[Outcome]) -> list[float]:
        return [self.metric.best(outcome.values) for outcome in outcomes]

    @staticmethod
    def _best_depth(setting: Setting, gains: Sequence[bool]) -> int:
        return len(setting.groups) - 1 - max(n for n, is_gain in enumerate(gains) if is_gain)

    def _phase(self, setting: Setting, depth: int, until: Trigger | None) -> Phase:
        return Phase(setting.groups[:depth], until=until, batch_norm=setting.batch_norm)
