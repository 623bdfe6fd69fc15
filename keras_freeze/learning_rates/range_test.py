"""What a learning-rate range test found: losses by rate, and the rates that they suggest.

All here are pure values; `finder` trains.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_freeze.reports import Column, ShownAsTable, Table

# Losses are smoothed as fastai does, so that its suggestions mean the same here.
_SMOOTHING = 0.98
# A loss that falls by less than this part of itself, falls by chance.
_FALL = 1e-3
# As in fastai, the first tenth, where the average is of a few losses, and the last steps, where the
# loss rises, suggest nothing.
_FIRST_PART, _LAST_STEPS = 10, 5


@dataclasses.dataclass(frozen=True, repr=False)
class RangeTest:
    """The losses of one phase at learning rates that rise from step to step.

    Attributes:
        phase: Int, the number of the phase in its schedule, from 0.
        training: Tuple of str, the layer groups that trained, from the head down.
        rates: Tuple of float, the learning rate of each step.
        losses: Tuple of float, the loss of each step, before it changed the weights.
    """

    phase: int
    training: tuple[str, ...]
    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def smoothed(self) -> tuple[float, ...]:
        """The losses as an exponential average, without bias towards the start."""
        return smoothed(self.losses)

    @property
    def valley(self) -> float:
        """The suggested rate, in the middle of the longest fall of the smoothed loss.

        NaN where the loss falls by less than a thousandth of what it was.
        """
        return self._suggested(valley)

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest over the logarithm of the rate.

        NaN where the loss falls by less than a thousandth of what it was.
        """
        return self._suggested(steepest)

    def _suggested(self, find: Callable[[Sequence[float]], int | None]) -> float:
        first, end = len(self.rates) // _FIRST_PART, len(self.rates) - _LAST_STEPS
        losses = self.smoothed[first:end]
        falls = len(losses) > 1 and losses[0] - min(losses) > _FALL * abs(losses[0])
        place = find(losses) if falls else None
        return math.nan if place is None else self.rates[first + place]

    @property
    def is_still_falling(self) -> bool:
        """Whether the smoothed loss is lowest in the last tenth, so that higher rates are open."""
        losses = self.smoothed
        is_late = losses.index(min(losses)) >= len(losses) - max(1, len(losses) // 10)
        return is_late and not diverges(losses)

    @property
    def diverged_at(self) -> float:
        """The last rate, where the loss rose so far that the test ended; NaN if it did not.

        That is to more than four times the lowest that the smoothed loss has been.
        """
        return self.rates[-1] if diverges(self.smoothed) else math.nan

    def __repr__(self) -> str:
        return f"RangeTest(phase={self.phase}, steps={len(self.rates)}, valley={self.valley:.2g})"


@dataclasses.dataclass(frozen=True, repr=False)
class LearningRateRange(ShownAsTable):
    """The range tests of the phases of a schedule.

    `print(found)` gives plain text, `rich.print(found)` a table in colour where the output is
    a terminal, and a notebook shows HTML. `plots.learning_rates(found)` draws it.

    Attributes:
        model: Str, the model's name.
        tests: Tuple of `RangeTest`, one for each phase.
    """

    model: str
    tests: tuple[RangeTest, ...]

    @property
    def learning_rate(self) -> float:
        """The rate to compile with, which is the lowest valley of all phases.

        Raises:
            ValueError: if the loss falls in no phase.
        """
        known = self._valleys
        if not known:
            raise ValueError(
                f"find_learning_rate found no learning rate for model {self.model!r}: the loss "
                "falls in no phase. Draw it by plots.learning_rates, look at labels and inputs, or "
                "pass more steps=."
            )
        return min(known)

    @property
    def _valleys(self) -> list[float]:
        return [test.valley for test in self.tests if not math.isnan(test.valley)]

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain data, ready for JSON; a rate that isn't known is None."""
        tests = []
        for test in self.tests:
            row: dict[str, Any] = dataclasses.asdict(test)
            for name in ("valley", "steepest", "diverged_at"):
                value = getattr(test, name)
                row[name] = None if math.isnan(value) else value
            tests.append(row)
        best = min(self._valleys, default=None)
        return {"model": self.model, "learning_rate": best, "tests": tests}

    def __repr__(self) -> str:
        best = f"{min(self._valleys):.2g}" if self._valleys else "none"
        return f"LearningRateRange(model={self.model!r}, learning_rate={best})"

    def _table(self) -> Table:
        columns = (
            Column("phase"),
            Column("trains", fit="wrap"),
            Column("valley", align="right"),
            Column("steepest", align="right"),
            Column("diverged at", align="right"),
        )
        rows = []
        for test in self.tests:
            rates = (test.valley, test.steepest, test.diverged_at)
            cells = ["-" if math.isnan(rate) else f"{rate:.2g}" for rate in rates]
            rows.append((str(test.phase), ", ".join(test.training), *cells))
        title = f"{self.model}: no learning rate found"
        if self._valleys:
            title = f"{self.model}: learning rate {min(self._valleys):.2g}, the lowest valley"
        return Table(title, columns, tuple(rows))


def smoothed(losses: Sequence[float], weight: float = _SMOOTHING) -> tuple[float, ...]:
    """Return the exponential average of losses so far, each corrected for its short past.

    Args:
        losses: Floats, one for each step.
        weight: Float below 1, how much of the average before is kept. Defaults to 0.98.

    Example:
        >>> [round(loss, 3) for loss in smoothed([4.0, 2.0], 0.5)]
        [4.0, 2.667]
    """
    average, found = 0.0, []
    for step, loss in enumerate(losses, 1):
        average = weight * average + (1 - weight) * loss
        found.append(average / (1 - weight**step))
    return tuple(found)


def valley(losses: Sequence[float]) -> int | None:
    """Return the place in the middle of the longest decreasing subsequence of losses.

    The valley begins as many steps before its end as it has losses; half of it is where fastai
    takes the rate, with room on both sides.

    Returns:
        Int; None where no loss is lower than an earlier one.

    Example:
        >>> valley([5.0, 5.0, 4.0, 3.0, 2.0, 1.0, 9.0])
        3
    """
    length = [1] * len(losses)
    for i, loss in enumerate(losses):
        for j in range(i):
            if loss < losses[j]:
                length[i] = max(length[i], length[j] + 1)
    longest = max(length, default=1)
    if longest == 1:
        return None
    end = length.index(longest)
    return end - longest + 1 + (longest - 1) // 2


def steepest(losses: Sequence[float]) -> int | None:
    """Return the place of the most negative slope of losses at equal distances.

    It is looked for before the lowest loss, and slopes are averaged over a tenth of the losses: by
    chance a noisy loss falls fast anywhere.

    Returns:
        Int; None where they fall nowhere.

    Example:
        >>> steepest([5.0, 5.0, 4.5, 2.0, 1.9, 1.8])
        2
    """
    if len(losses) < 2:
        return None
    slopes = np.gradient(np.asarray(losses, "float64"))
    slopes[~np.isfinite(slopes)] = 0.0
    beside = len(losses) // 20
    slopes = np.convolve(slopes, np.full(2 * beside + 1, 1 / (2 * beside + 1)), "same")
    finite = [loss if math.isfinite(loss) else math.inf for loss in losses]
    place = int(slopes[: finite.index(min(finite)) + 1].argmin())
    return place if slopes[place] < 0 else None


def diverges(losses: Sequence[float], factor: float = 4.0) -> bool:
    """Tell whether the last of some smoothed losses is not finite, or far above the lowest.

    Args:
        losses: Floats, of which only the last may not be finite.
        factor: Float, how far above the lowest is too far, in parts of how far that one lies
            below the first, or of its own size if that is larger. Defaults to 4.0.

    Example:
        >>> diverges([2.0, 1.0, 3.0]), diverges([2.0, 1.0, 5.5]), diverges([2.0, float("nan")])
        (False, True, True)
    """
    *_, last = losses
    if not math.isfinite(last):
        return True
    lowest = min(losses)
    return last > lowest + (factor - 1) * max(abs(lowest), losses[0] - lowest)
