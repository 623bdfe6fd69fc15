"""A race of freeze depths in one fit: successive halving, each depth with a training of its own."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from keras_freeze.checks import ArgumentError, counted, first_few
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
from keras_freeze.schedules.triggers import AfterEpochs, Trigger

# The name under which the state is kept in which all depths start.
_START = "start"


@dataclasses.dataclass(frozen=True)
class _Leg:
    """A phase of a race.

    Attributes:
        depth: Int, how many groups are frozen.
        epochs: Int, its length; None for that of the winner.
        is_first: Bool, whether the depth has not run before.
        dropped: The depths that are out of the race now.
        evidence: Why.
    """

    depth: int
    epochs: int | None
    is_first: bool = False
    dropped: tuple[int, ...] = ()
    evidence: tuple[Evidence, ...] = ()


@dataclasses.dataclass(frozen=True)
class Race(AdaptiveSchedule):
    """Race freeze depths until one is left.

    Args:
        metric: What decides.
        budget: Float, the part of the epochs that the race may take.
        last: What ends the winner's training; None for the fit.
    """

    metric: Metric
    budget: float
    last: Trigger | None

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
        """Whether several trainings take turns: they do."""
        return True

    def outline(self, setting: Setting) -> FreezeSchedule:
        """Return the first round, in which each depth runs once."""
        depths, rounds = self._start(setting)
        phases = [self._phase(setting, _Leg(depth, rounds[0])) for depth in depths]
        return FreezeSchedule(phases)

    @property
    def prospect(self) -> str:
        """How the depth is found, in a sentence."""
        return (
            "A race of depths: each phase begins with the model as it was at the start; by "
            f"{self.metric.name} the worse half drops out and the others train on in turns, until "
            "one is left."
        )

    def remarks(self, setting: Setting) -> tuple[str, ...]:
        """Return which depths start, where the epochs are too few for all of them."""
        depths, groups = self._start(setting)[0], len(setting.groups)
        if len(depths) == groups:
            return ()
        enough = next(n for n in itertools.count(1) if _rounds(groups, int(self.budget * n)))
        names = first_few([str(setting.depth(depth)) for depth in depths], limit=groups)
        return (
            f"GradualUnfreeze: depths {names} of 0 to {setting.depth(groups - 1)} race; a fit of "
            f"{enough} epochs or more has them all.",
        )

    def decide(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return what follows the phases that have ended."""
        legs = list(self._legs(setting, outcomes))
        leg, before = legs[-1], legs[-2] if len(legs) > 1 else None
        phase, numbers = self._phase(setting, leg), self._start(setting)[0]
        labels = (("candidate", numbers.index(leg.depth)),)
        if before is None:
            return Decision(phase, keeps=_START, labels=labels)
        is_out = before.depth in leg.dropped
        goes_on = before.depth == leg.depth
        forgets = [str(depth) for depth in leg.dropped]
        if leg.dropped:
            forgets.append(_START)
        if leg.epochs is None:
            forgets.append(str(leg.depth))
        return Decision(
            phase,
            is_final=leg.epochs is None,
            keeps=None if is_out or goes_on else str(before.depth),
            returns_to=None if goes_on else _START if leg.is_first else str(leg.depth),
            forgets=tuple(forgets),
            evidence=leg.evidence,
            labels=labels,
        )

    def conclude(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return the state of the best depth so far."""
        legs = list(self._legs(setting, outcomes))[: len(outcomes)]
        best = self.metric.ranked(self._scores(legs, outcomes))[0]
        is_present = best == legs[-1].depth
        phase = self._phase(setting, _Leg(best, None))
        return Decision(phase, is_final=True, returns_to=None if is_present else str(best))

    def verdict(self, setting: Setting, outcomes: Sequence[Outcome]) -> str:
        """Return the depth that won, and the scores of all."""
        legs = list(self._legs(setting, outcomes))[: len(outcomes)]
        scores = self._scores(legs, outcomes)
        best = self.metric.ranked(scores)[0]
        listed = ", ".join(
            f"{score:.4g} (depth {setting.depth(depth)})" for depth, score in scores.items()
        )
        return f"{depth_in_words(setting, best)}; {self.metric.name} in the race: {listed}"

    def _legs(self, setting: Setting, outcomes: Sequence[Outcome]) -> Iterator[_Leg]:
        """Yield the phases that have run, and the next."""
        survivors, rounds = self._start(setting)
        done: list[_Leg] = []
        dropped: tuple[int, ...] = ()
        evidence: tuple[Evidence, ...] = ()
        for number, epochs in enumerate(rounds):
            for depth in survivors:
                done.append(_Leg(depth, epochs, number == 0, dropped, evidence))
                dropped = evidence = ()
                yield done[-1]
                if len(done) > len(outcomes):
                    return
            scores = self._scores(done, outcomes)
            ranked = self.metric.ranked({depth: scores[depth] for depth in survivors})
            staying = ranked[: math.ceil(len(ranked) / 2)]
            dropped, worst = tuple(ranked[len(staying) :]), staying[-1]
            evidence = tuple(
                Evidence(
                    f"depth {setting.depth(depth)} is dropped",
                    scores[depth],
                    self.metric.needed(depth, worst, scores[worst]),
                )
                for depth in sorted(dropped, reverse=True)
            )
            survivors = sorted(staying, reverse=True)
        winner = survivors[0]
        best = Evidence(f"depth {setting.depth(winner)} wins", scores[winner], None)
        yield _Leg(winner, None, dropped=dropped, evidence=(*evidence, best))

    def _scores(self, legs: Sequence[_Leg], outcomes: Sequence[Outcome]) -> dict[int, float]:
        """Return the best value of each depth over all that it has run."""
        values: dict[int, list[float]] = {}
        for leg, outcome in zip(legs, outcomes, strict=False):
            values.setdefault(leg.depth, []).extend(outcome.values)
        return {depth: self.metric.best(own) for depth, own in values.items()}

    def _start(self, setting: Setting) -> tuple[list[int], list[int]]:
        """Return the depths that start, the deepest first, and the epochs of each round."""
        groups, available = len(setting.groups), int(self.budget * setting.epochs)
        for count in range(groups, 1, -1):
            rounds = _rounds(count, available)
            if rounds:
                steps = [round(n * (groups - 1) / (count - 1)) for n in range(count)]
                return steps[::-1], rounds
        raise ArgumentError(
            "Auto",
            "budget",
            "be enough for an epoch of each of two depths",
            received=f"{available} of {counted(setting.epochs, 'epoch')}",
            advice=f"Train for {math.ceil(2 / self.budget)} epochs or more, pass a larger budget=, "
            'or use Auto("sequence").',
        )

    def _phase(self, setting: Setting, leg: _Leg) -> Phase:
        until = self.last if leg.epochs is None else AfterEpochs(leg.epochs)
        return Phase(setting.groups[: leg.depth], until=until, batch_norm=setting.batch_norm)


def _rounds(count: int, available: int) -> list[int]:
    """Return the epochs of each depth in each round of a race; none if there are too few.

    Example:
        >>> _rounds(6, available=13), _rounds(6, available=10)
        ([1, 1, 2], [])
    """
    sizes = []
    while count > 1:
        sizes.append(count)
        count = math.ceil(count / 2)
    each = available // sum(sizes)
    epochs, left = [each] * len(sizes), available - each * sum(sizes)
    for number in reversed(range(len(sizes))):
        if left >= sizes[number]:
            epochs[number] += 1
            left -= sizes[number]
    return epochs if each else []
