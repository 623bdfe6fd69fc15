"""What is kept of the batches of one kind, and whether their samples are repeated."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Sequence

import numpy as np

from keras_freeze.features import Store


class ReuseTracker:
    """The features of training's or validation's samples, and whether they are used again.

    An epoch in which the model was cut elsewhere does not show whether samples are repeated.

    Args:
        store: `Store`, of this fit.
        passes: Int, whole epochs without a repeated sample after which repeats are expected.
        enough: Int, batches of a further epoch after which one of them should be repeated.

    Example:
        >>> from keras_freeze.features import RowStore
        >>> tracker = ReuseTracker(RowStore(), passes=1, enough=1)
        >>> for sample in (b"a", b"b"):
        ...     tracker.begin()
        ...     found = tracker.look_up([sample])
        ...     tracker.keep([sample], [np.ones((1, 3))])
        ...     tracker.count()
        >>> tracker.lacks_repeats
        True
    """

    def __init__(self, store: Store, *, passes: int, enough: int) -> None:
        self.store: Store = store
        self.is_active = True
        self._own = store
        self._passes = passes
        self._enough = enough
        self._earlier = 0
        self._batches = 0
        self._looked_up = 0
        self._hits = 0
        self._is_whole = True

    @property
    def is_at_start(self) -> bool:
        """Bool, whether no batch of this epoch has been looked up."""
        return self._looked_up == 0

    @property
    def lacks_repeats(self) -> bool:
        """Bool, whether samples should have been repeated by now, and were not."""
        is_due = self._earlier >= self._passes and self._looked_up >= self._enough
        return is_due and not self._hits

    def begin(self) -> None:
        """Record that an epoch, or an evaluation, begins."""
        self._earlier += self._is_whole and self._looked_up > 0
        if self._hits:
            self._earlier = 0
        self._batches = self._looked_up = self._hits = 0
        self._is_whole = True

    def count(self) -> None:
        """Record that a batch is over, looked up or not."""
        self._batches += 1

    def use(self, store: Store) -> None:
        """Keep features in a store that others use too, until everything is cleared."""
        self.store = store

    def look_up(self, keys: Sequence[Hashable], seen: int | None = None) -> list[np.ndarray] | None:
        """Return the features of these samples; None if those of one are missing.

        Args:
            keys: Of the samples, or of views of them.
            seen: Int, how many of the samples were looked up before. Defaults to what is kept.
        """
        self._looked_up += 1
        hits = self.store.hits(keys)
        self._hits += hits if seen is None else seen
        return self.store.get(keys) if hits == len(keys) else None

    def keep(self, keys: Sequence[Hashable], features: Sequence[np.ndarray]) -> None:
        """Keep the features of these samples.

        Raises:
            OSError: if a file can't be written.
        """
        self.store.put(keys, features)

    def interrupt(self) -> None:
        """Record that the model is no longer cut as it was at the beginning of the epoch."""
        self._is_whole = self._batches == 0

    def clear(self) -> None:
        """Remove all features; leave a store of others as it is."""
        self._own.clear()
        self.store = self._own
        self._earlier = self._hits = 0
        self.interrupt()

    def stop(self, *, wrong: bool = False) -> None:
        """Keep no more, and remove what was kept: if it is wrong, that of other fits too."""
        self.is_active = False
        with contextlib.suppress(OSError):
            (self.store.clear if wrong else self.store.withdraw)()
