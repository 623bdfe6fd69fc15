"""One more group at a time, as long as each brings a gain."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from keras_freeze.checks import counted, first_few
from keras_freeze.schedules.adaptive import (
    AdaptiveSchedule,
    Decision,
    Evidence,
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
    def criterion(self) -> str:
        """The metric that decides."""
        return self.metric.name

    @property
    def is_race(self) -> bool:
        """Whether several trainings take turns: there is one."""
        return False

    @property
    def depends_on_epochs(self) -> bool:
        """Whether what is decided depends on the epochs of the training: phases end by a metric."""
        return False

    def outline(self, setting: Setting) -> FreezeSchedule:
        """Return the phases as they are if every group brings a gain."""
        depths = range(len(setting.groups) - 1, -1, -1)
        return FreezeSchedule([self._phase(setting, depth, self.until) for depth in depths])

    @property
    def prospect(self) -> str:
        """How the depth is found, in a sentence."""
        groups = counted(self.patience, "group")
        end = "training goes on" if self.then == "continue" else "training ends"
        return (
            f"A phase without a gain in {self.metric.name} is undone: after {groups} without one, "
            f"{end} at the best depth."
        )

    def decide(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return what follows the phases that have ended."""
        deepest, ran = len(setting.groups) - 1, len(outcomes)
        if not ran:
            return Decision(self._phase(setting, deepest, self.until))
        values = self._values(outcomes)
        gains = self.metric.gains(values)
        last = deepest - (ran - 1)
        best = _last_gain(gains)
        depth = deepest - best
        before = values[_last_gain(gains[:-1])] if ran > 1 else None
        verb = "brings a gain" if gains[-1] else "brings no gain"
        what = f"{setting.groups[last]} {verb}" if ran > 1 else f"{setting.groups[last]} alone"
        evidence: tuple[Evidence, ...] = (Evidence(what, values[-1], before),)
        is_over = depth - last >= self.patience or last == 0
        if not is_over:
            phase = self._phase(setting, deepest - ran, self.until)
            keeps = _BEST if gains[-1] else None
            return Decision(phase, restores_best=True, keeps=keeps, evidence=evidence)
        evidence += (Evidence(f"depth {setting.depth(depth)} is the best", values[best]),)
        goes_on = self.then == "continue"
        return Decision(
            self._phase(setting, depth, None) if goes_on else None,
            is_final=True,
            restores_best=gains[-1],
            returns_to=None if gains[-1] else _BEST,
            forgets=(_BEST,) if goes_on else (),
            evidence=evidence,
        )

    def conclude(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return the best state if the last group has brought no gain so far."""
        gains = self.metric.gains(self._values(outcomes))
        depth = len(setting.groups) - 1 - _last_gain(gains)
        phase = self._phase(setting, depth, None)
        return Decision(phase, is_final=True, returns_to=None if gains[-1] else _BEST)

    def verdict(self, setting: Setting, outcomes: Sequence[Outcome]) -> str:
        """Return the best depth, and what each group brought."""
        values = self._values(outcomes)
        gains = self.metric.gains(values)
        depth = len(setting.groups) - 1 - _last_gain(gains)
        text = f"{depth_in_words(setting, depth)}; {self.metric.name} {values[0]:.4g} "
        text += f"with {setting.groups[-1]} alone"
        for n in range(1, len(values)):
            change = values[n] - values[_last_gain(gains[:n])]
            text += f", {change:+.3g} by unfreezing {setting.groups[-1 - n]}"
        if not self.decide(setting, outcomes).is_final:
            left = setting.groups[: -len(values)]
            verb = "was" if len(left) == 1 else "were"
            text += f"; {first_few(left[::-1])} {verb} not tried"
        return text

    def _values(self, outcomes: Sequence[Outcome]) -> list[float]:
        return [self.metric.best(outcome.values) for outcome in outcomes]

    def _phase(self, setting: Setting, depth: int, until: Trigger | None) -> Phase:
        return Phase(setting.groups[:depth], until=until, batch_norm=setting.batch_norm)


def _last_gain(gains: Sequence[bool]) -> int:
    return max(n for n, is_gain in enumerate(gains) if is_gain)
