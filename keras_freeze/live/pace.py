"""How long what is left of a training takes, by the time that steps and epochs took so far."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Hashable

from keras_freeze.schedules import Moment

# So many executions of the train step are remembered.
_MAX_INTERVALS = 200
# With fewer, a median may be that of a compilation.
_ENOUGH = 3


@dataclasses.dataclass(frozen=True)
class _Epoch:
    """An epoch that is done.

    Attributes:
        seconds: Float, from its beginning to its end.
        excess_s: Float, by how much its longest execution took more than the median: about the
            time of a compilation.
        tail_s: Float, what came after the last execution, such as validation.
    """

    seconds: float
    excess_s: float
    tail_s: float


class Pace:
    """The time that steps and epochs take while the same groups train.

    What is expected is a median of what was measured with the same groups trainable: of whole
    epochs but the first, in which a step is compiled and features are cached, as soon as there is a
    second one; until then of the steps of the present epoch.

    Args:
        steps: Int, batches in an epoch; None if not known before the first has ended.

    Example:
        >>> pace = Pace(steps=4)
        >>> pace.begin_epoch(0.0, ("block1",))
        >>> for batch, second in enumerate([0.0, 9.0, 10.0, 11.0]):
        ...     pace.begin_batch(second, batch)
        >>> pace.end_epoch(14.0)  # the first step took 9 s, the others 1 s, validation 2 s
        >>> pace.epoch_s
        6.0
    """

    def __init__(self, steps: int | None) -> None:
        self.steps = steps
        self._key: Hashable = None
        self._begun = 0.0
        self._is_whole = False
        self._last: tuple[float, int] | None = None
        self._intervals: collections.deque[tuple[float, int]] = collections.deque(
            maxlen=_MAX_INTERVALS
        )
        self._known: dict[Hashable, list[_Epoch]] = {}

    def begin_epoch(self, now: float, key: Hashable) -> None:
        """Record that an epoch begins.

        Args:
            now: Float, in seconds.
            key: What the time of a step depends on, such as the names of the frozen groups.
        """
        self._begun, self._key, self._is_whole = now, key, True
        self._last = None
        self._intervals.clear()

    def begin_batch(self, now: float, batch: int) -> None:
        """Record that so many batches of the epoch are done, and another begins."""
        if self._last is not None and batch > self._last[1]:
            self._intervals.append((now - self._last[0], batch - self._last[1]))
        self._last = (now, batch)

    def change(self, key: Hashable) -> None:
        """Record that the groups that train change in the middle of an epoch."""
        self._key, self._is_whole = key, False
        self._last = None
        self._intervals.clear()

    def end_epoch(self, now: float) -> None:
        """Record that an epoch ends."""
        if self._last is not None:
            step, excess, tail = self._step_s, 0.0, 0.0
            count = self._intervals[-1][1] if self._intervals else 1
            if step is not None:
                excess = max(0.0, *(seconds - step * n for seconds, n in self._intervals))
                tail = max(0.0, now - self._last[0] - step * count)
            if self.steps is None:
                self.steps = self._last[1] + count
            if self._is_whole:
                epoch = _Epoch(now - self._begun, excess, tail)
                self._known.setdefault(self._key, []).append(epoch)
        self._intervals.clear()
        self._last = None

    @property
    def epoch_s(self) -> float | None:
        """About how many seconds an epoch takes; None if nothing is known."""
        known = self._known.get(self._key, [])
        if len(known) > 1:
            return statistics.median(epoch.seconds for epoch in known[1:])
        tail = known[0].tail_s if known else 0.0
        if self._step_s is not None and self.steps is not None:
            return self.steps * self._step_s + tail
        return known[0].seconds - known[0].excess_s if known else None

    def seconds_until(self, end: Moment, now: Moment) -> float | None:
        """Return about how many seconds it takes from one moment to another; None if not known."""
        whole, step = self.epoch_s, self._step_s
        if step is None and whole is not None and self.steps:
            step = whole / self.steps
        if end.epoch <= now.epoch:
            return None if step is None else max(0, end.step - now.step) * step
        if whole is None:
            return None
        done = 0.0 if step is None else now.step * step
        further = (end.epoch - now.epoch - 1) * whole + end.step * (step or 0.0)
        return max(0.0, whole - done) + further

    @property
    def _step_s(self) -> float | None:
        if len(self._intervals) < _ENOUGH:
            return None
        return statistics.median(seconds / count for seconds, count in self._intervals)
