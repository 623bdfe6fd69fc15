"""Learning-rate curves within a phase, on top of the compiled rate and the group rates. Pure.

A curve is a factor from 0 to 1 that depends on how many batches of its phase are done. It is
computed inside the train step, once per batch, so that it follows `steps_per_execution` too.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, ClassVar

from keras import ops

from keras_freeze.checks import ArgumentError, check_count, is_number


class Curve(abc.ABC):
    """Base class: a learning-rate factor over the batches of a phase.

    Attributes:
        steps: Int, in batches, over which the curve runs; None for the length of the phase.
        spans_training: Bool, whether it runs from the first batch of the training, not of its
            phase; `steps` is then None.
        lives: By group, the part of its length after which it is at its end; 1 where missing.
    """

    steps: int | None
    spans_training: ClassVar[bool] = False
    lives: Mapping[str, float] = types.MappingProxyType({})

    @abc.abstractmethod
    def factor(self, step: Any, steps: int) -> Any:
        """Return the factor for a batch.

        Args:
            step: Scalar tensor of floats, the batches of the phase that are done.
            steps: Int, the length of the curve, in batches.

        Returns:
            Scalar tensor of floats.
        """


@dataclasses.dataclass(frozen=True)
class Warmup(Curve):
    """Raise the learning rate linearly at the beginning of a phase.

    Args:
        steps: Int, positive, in batches, until the full rate is reached.

    Raises:
        ValueError: if it is not a positive integer.

    Reference:
        - [Goyal et al., 2017](https://arxiv.org/abs/1706.02677): gradual warm-up.

    Example:
        >>> [round(float(Warmup(4).factor(float(step), 4)), 2) for step in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps is None:
            raise ArgumentError(
                "Warmup",
                "steps",
                "be a positive integer",
                value=None,
                advice="A warm-up is shorter than its phase; give its length in batches.",
            )
        check_count("Warmup", "steps", self.steps)

    def factor(self, step: Any, steps: int) -> Any:
        """Return the factor for a batch."""
        return ops.minimum((step + 1.0) / float(steps), 1.0)


@dataclasses.dataclass(frozen=True)
class SlantedTriangular(Curve):
    """Raise the learning rate quickly, then let it fall slowly, both linearly.

    Args:
        steps: Int, positive, in batches; None (default) for the length of the phase, which
            must then be known beforehand. After so many the rate stays at its lowest.
        cut_fraction: Float between 0 and 1, the part in which the rate rises. Defaults to 0.1.
        ratio: Float above 1, how much smaller the lowest rate is than the highest. Defaults
            to 32.

    Raises:
        ValueError: if an argument is invalid.

    Reference:
        - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146), section 3.2.

    Example:
        >>> curve = SlantedTriangular(10, cut_fraction=0.2, ratio=10)
        >>> [round(float(curve.factor(float(step), 10)), 2) for step in (0, 1, 2, 6, 10)]
        [0.1, 0.55, 1.0, 0.55, 0.1]
    """

    steps: int | None = None
    cut_fraction: float = 0.1
    ratio: float = 32.0

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_count("SlantedTriangular", "steps", self.steps)
        if not is_number(self.cut_fraction) or not 0 < self.cut_fraction < 1:
            raise ArgumentError(
                "SlantedTriangular", "cut_fraction", "be between 0 and 1", value=self.cut_fraction
            )
        if not is_number(self.ratio) or not self.ratio > 1:
            raise ArgumentError(
                "SlantedTriangular",
                "ratio",
                "be above 1, the highest rate over the lowest",
                value=self.ratio,
            )

    def factor(self, step: Any, steps: int) -> Any:
        """Return the factor for a batch."""
        cut = max(1, math.floor(steps * self.cut_fraction))
        falling = 1.0 - (step - float(cut)) / float(max(1, steps - cut))
        height = ops.maximum(ops.minimum(step / float(cut), falling), 0.0)
        return (1.0 + height * (self.ratio - 1.0)) / self.ratio


@dataclasses.dataclass(frozen=True)
class Cosine(Curve):
    """Let the learning rate fall by half a cosine.

    Args:
        steps: Int, positive, in batches; None (default) for the length of the phase, which
            must then be known beforehand. After so many the rate stays at its lowest.
        floor: Float from 0 and below 1, the lowest factor. Defaults to 0.

    Raises:
        ValueError: if an argument is invalid.

    Reference:
        - [Loshchilov and Hutter, 2017](https://arxiv.org/abs/1608.03983).

    Example:
        >>> [round(float(Cosine(4).factor(float(step), 4)), 2) for step in (0, 2, 4, 9)]
        [1.0, 0.5, 0.0, 0.0]
    """

    steps: int | None = None
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_count("Cosine", "steps", self.steps)
        if not is_number(self.floor) or not 0 <= self.floor < 1:
            raise ArgumentError("Cosine", "floor", "be from 0 and below 1", value=self.floor)

    def factor(self, step: Any, steps: int) -> Any:
        """Return the factor for a batch."""
        done = ops.minimum(step / float(steps), 1.0)
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + ops.cos(math.pi * done))


@dataclasses.dataclass(frozen=True)
class Annealing(Curve):
    """Let the learning rate of each group fall by half a cosine of its own length.

    It begins with the training, and phases don't interrupt it.

    Args:
        lives: Mapping from group, or pattern of groups, to the part of the training, above 0 and at
            most 1, after which its rate is 0; 1 for groups that are missing.

    Raises:
        ValueError: if an argument is invalid; at the start of training, if its length isn't known.

    Reference:
        - [Brock et al., 2017](https://arxiv.org/abs/1706.04983): FreezeOut.

    Example:
        >>> curve = Annealing({"low": 0.5})
        >>> [round(float(curve.factor(n / curve.lives["low"], 8)), 2) for n in (0.0, 2.0, 4.0)]
        [1.0, 0.5, 0.0]
    """

    lives: Mapping[str, float] = dataclasses.field()  # without the default of the base class
    steps: None = dataclasses.field(default=None, init=False, repr=False)
    spans_training: ClassVar[bool] = True

    def __post_init__(self) -> None:
        values = self.lives.values() if isinstance(self.lives, Mapping) else [None]
        if not all(is_number(life) and 0 < life <= 1 for life in values):
            rule = "map groups to numbers above 0, at most 1"
            raise ArgumentError("Annealing", "lives", rule, value=self.lives)
        object.__setattr__(self, "lives", dict(self.lives))

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.lives.items())))

    def factor(self, step: Any, steps: int) -> Any:
        """Return the factor for a batch."""
        return Cosine().factor(step, steps)
