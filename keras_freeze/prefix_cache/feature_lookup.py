"""Look the features of a batch up, or compute and keep them, and count both."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from keras_freeze.prefix_cache.audit import to_host
from keras_freeze.prefix_cache.batches import Batch, Kind
from keras_freeze.prefix_cache.feature_store import RowStore
from keras_freeze.prefix_cache.planning import CutPlan
from keras_freeze.prefix_cache.reuse_tracker import ReuseTracker
from keras_freeze.prefix_cache.summary import Statistics
from keras_freeze.prefix_cache.views import Visits

# Evaluations after which samples of validation are expected to be repeated. A single one without
# repeats may have been on other data, by some other callback.
EVALUATIONS = 4
# The part of a fit's time in which features are computed again and compared, apart from the first.
AUDIT_SHARE = 0.02


class FeatureLookup:
    """The features of a fit's samples, of training and of validation.

    Args:
        new_store: Makes a `RowStore`.
        steps: Int, batches in an epoch; None if not known.
    """

    def __init__(self, new_store: Callable[[], RowStore], steps: int | None) -> None:
        self.statistics = Statistics()
        self.trackers: dict[Kind, ReuseTracker] = {
            "train": ReuseTracker(new_store(), passes=1, enough=max(1, (steps or 16) // 4)),
            "test": ReuseTracker(new_store(), passes=EVALUATIONS, enough=1),
        }
        self.visits = Visits(1)
        self._begun = time.perf_counter()
        self._audit_s: list[float] = []

    def begin(self, kind: Kind) -> None:
        """Record that an epoch, or an evaluation, begins."""
        self.trackers[kind].begin()

    def keys_of(self, plan: CutPlan, batch: Batch) -> tuple[Sequence[Hashable], int | None]:
        """Return what features are kept by, and how many of the samples were seen before."""
        if plan.draw is None:
            return batch.keys, None
        seen = self.visits.known(batch.keys)
        return self.visits.next(batch.keys), seen

    def stored(
        self, plan: CutPlan, batch: Batch, keys: Sequence[Hashable], seen: int | None
    ) -> list[np.ndarray] | None:
        """Return the features of a batch that are kept; None if those of a sample are missing."""
        tracker = self.trackers[batch.kind]
        with self.statistics.lookup():
            shelf = plan.shared.shelf(batch) if plan.shared else None
            if shelf is not None:
                tracker.use(shelf.store)
            return tracker.look_up(keys, seen)

    def passes_audit(self, plan: CutPlan, batch: Batch, rows: Sequence[np.ndarray]) -> bool:
        """Tell whether features that were looked up are still right, as far as is audited.

        The first that are looked up are audited, and then as many as `AUDIT_SHARE` leaves time for.
        """
        begun = time.perf_counter()
        share = AUDIT_SHARE * (begun - self._begun)
        if self._audit_s and sum(self._audit_s) + self._audit_s[-1] > share:
            return True
        batch_s = self.statistics.sample_s * batch.rows
        passes = plan.audit.passes(batch, rows, batch_s, self.trackers[batch.kind].store)
        self._audit_s.append(time.perf_counter() - begun)
        return passes

    def computed(
        self, plan: CutPlan, batch: Batch, known: list[Any] | None
    ) -> tuple[list[Any], list[np.ndarray]]:
        """Return the features of a batch, and the same as arrays.

        Args:
            plan: `CutPlan`.
            batch: `Batch`.
            known: What has just been computed for it; None if nothing has.
        """
        self.statistics.misses += batch.rows
        if known is not None:
            return known, [to_host(tensor) for tensor in known]
        begun = time.perf_counter()
        flat = plan.shared.compute(batch) if plan.shared else None
        if flat is None:
            flat = plan.prefix(batch)
        arrays = [to_host(tensor) for tensor in flat]
        self.statistics.compute_s += time.perf_counter() - begun
        self.statistics.computed += batch.rows
        return flat, arrays

    def keep(self, batch: Batch, keys: Sequence[Hashable], arrays: Sequence[np.ndarray]) -> None:
        """Keep the features of a batch.

        Raises:
            OSError: if a file can't be written.
        """
        with self.statistics.lookup():
            self.trackers[batch.kind].keep(keys, arrays)
            total = sum(tracker.store.nbytes for tracker in self.trackers.values())
            self.statistics.nbytes = max(self.statistics.nbytes, total)

    def clear(self, kinds: Iterable[Kind]) -> None:
        """Remove all features of some kinds."""
        for kind in kinds:
            self.trackers[kind].clear()
            if kind == "train":
                self.visits.clear()
