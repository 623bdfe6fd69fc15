"""Compare what adaptive schedules have seen of a metric: the best of a phase, gains, ranks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from keras_freeze.schedules.metrics import Direction, improves


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric that decides.

    Attributes:
        name: Str, as in the logs.
        direction: `"min"` if it is to fall, `"max"` if it is to rise.
        min_gain: Float, in its units: what each further group that unfreezes has to bring.
    """

    name: str
    direction: Direction
    min_gain: float = 0.0

    def best(self, values: Iterable[float]) -> float:
        """Return the best of some values; NaN if none is finite.

        Example:
            >>> Metric("val_loss", "min").best([0.5, 0.3, float("nan")])
            0.3
        """
        best = None
        for value in values:
            if improves(value, best, 0.0, self.direction):
                best = value
        return math.nan if best is None else best

    def gains(self, values: Sequence[float]) -> list[bool]:
        """Tell of each value whether it is a gain on the best before it; the first is.

        Example:
            >>> Metric("val_loss", "min", min_gain=0.1).gains([0.9, 0.85, 0.7, float("nan")])
            [True, False, True, False]
        """
        gains: list[bool] = []
        best = math.nan
        for value in values:
            has_none = math.isnan(best)
            is_gain = improves(value, None if has_none else best, self.min_gain, self.direction)
            gains.append(is_gain or not gains)
            best = value if gains[-1] else best
        return gains

    def ranked(self, scores: Mapping[int, float]) -> list[int]:
        """Return freeze depths by their scores, the best first; of equal ones the deepest.

        Example:
            >>> Metric("val_loss", "min").ranked({2: 0.5, 1: 0.4, 0: 0.4, 3: float("nan")})
            [1, 0, 2, 3]
            >>> Metric("val_loss", "min", min_gain=0.2).ranked({2: 0.5, 1: 0.4, 0: 0.05})
            [0, 2, 1]
        """
        return sorted(scores, key=lambda depth: (self._cost(scores[depth], depth), -depth))

    def needed(self, depth: int, other: int, score: float) -> float:
        """Return the score that a depth needs to be as good as another with its score.

        Example:
            >>> round(Metric("val_loss", "min", min_gain=0.1).needed(1, 3, 2.0), 3)
            1.8
        """
        sign = 1 if self.direction == "min" else -1
        return score - sign * self.min_gain * (other - depth)

    def _cost(self, score: float, depth: int) -> float:
        sign = 1 if self.direction == "min" else -1
        return sign * score - self.min_gain * depth if math.isfinite(score) else math.inf
