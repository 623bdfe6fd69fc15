"""Look the features of a batch up, or compute and keep them, and count both."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, cast

import keras
import numpy as np

from keras_freeze.features import KeptStore, Store
from keras_freeze.keras_internals.tensors import wait_for
from keras_freeze.prefix_cache.audit import to_host
from keras_freeze.prefix_cache.batches import Batch, Kind
from keras_freeze.prefix_cache.planning import CutPlan
from keras_freeze.prefix_cache.reuse_tracker import ReuseTracker
from keras_freeze.prefix_cache.summary import Statistics
from keras_freeze.prefix_cache.views import Visits

# Evaluations after which samples of validation are expected to be repeated. A single one without
# repeats may have been on other data, by some other callback.
EVALUATIONS = 4
# The part of a fit's time in which features are computed again and compared, apart from the first.
AUDIT_SHARE = 0.02
# Seconds between two looks for the features that another process computes.
POLL_S = 0.005


class FeatureLookup:
    """The features of a fit's samples, of training and of validation.

    Args:
        new_store: Makes a `Store`.
        steps: Int, batches in an epoch; None if not known.
    """

    def __init__(self, new_store: Callable[[], Store], steps: int | None) -> None:
        self.statistics = Statistics()
        self.trackers: dict[Kind, ReuseTracker] = {
            "train": ReuseTracker(new_store(), passes=1, enough=max(1, (steps or 16) // 4)),
            "test": ReuseTracker(new_store(), passes=EVALUATIONS, enough=1),
        }
        self.visits = Visits(1)
        self._ahead: set[Hashable] = set()
        self._begun = time.perf_counter()
        self._audits_s = self._last_audit_s = 0.0

    def begin(self, kind: Kind) -> None:
        """Record that an epoch, or an evaluation, begins."""
        self.trackers[kind].begin()

    def keys_of(self, plan: CutPlan, batch: Batch) -> tuple[Sequence[Hashable], int | None]:
        """Return what features are kept by, and how many of the samples were seen before."""
        if plan.draw is None:
            ahead = self._ahead.intersection(batch.keys)
            store = self.trackers[batch.kind].store
            return batch.keys, store.hits(batch.keys) - len(ahead) if ahead else None
        seen = self.visits.known(batch.keys)
        return self.visits.next(batch.keys), seen

    def stored(
        self, plan: CutPlan, batch: Batch, keys: Sequence[Hashable], seen: int | None
    ) -> list[np.ndarray] | None:
        """Return the features of a batch that are kept; None if those of a sample are missing."""
        tracker = self.trackers[batch.kind]
        with self.statistics.lookup():
            self._use_shelf(plan, batch)
            rows = tracker.look_up(keys, seen)
        self._count_bytes()
        return rows

    def passes_audit(self, plan: CutPlan, batch: Batch, rows: Sequence[np.ndarray]) -> bool:
        """Tell whether features that were looked up are still right, as far as is audited.

        The first that are looked up of a cut are audited, again where those could tell nothing, and
        then as many as `AUDIT_SHARE` leaves time for.
        """
        if plan.draw is not None and not plan.audit.has_sample:
            return True  # all views are of an earlier fit, which has audited them
        begun = time.perf_counter()
        share = AUDIT_SHARE * (begun - self._begun)
        is_due = not plan.audit.is_passed
        is_due |= not plan.audit.is_telling and plan.audit.tells(batch)
        if not is_due and self._audits_s + self._last_audit_s > share:
            return True
        passes = plan.audit.passes(batch, rows, self.trackers[batch.kind].store)
        self._last_audit_s = time.perf_counter() - begun
        self._audits_s += self._last_audit_s
        return passes

    def computed(
        self, plan: CutPlan, batch: Batch, keys: Sequence[Hashable], known: list[Any] | None
    ) -> tuple[Sequence[Any], list[np.ndarray]]:
        """Return the features of a batch, and the same as arrays.

        Args:
            plan: `CutPlan`.
            batch: `Batch`.
            keys: What they are kept by.
            known: What has just been computed for it; None if nothing has.

        Raises:
            OSError: if the features of others can't be read.
        """
        store = self.trackers[batch.kind].store
        if known is None and store.is_kept:
            found = self._completed(plan, batch, keys, cast(KeptStore, store))
            if found is not None:
                return found, found
        self.statistics.misses += batch.rows
        if known is not None:
            return known, known if store.keeps_tensors else list(map(to_host, known))
        return self._from_model(plan, batch)

    def _completed(
        self, plan: CutPlan, batch: Batch, keys: Sequence[Hashable], store: KeptStore
    ) -> list[np.ndarray] | None:
        """Compute the rows that are missing and that no other process computes; wait for those.

        Returns:
            List of arrays; None if the rows are of several shapes.
        """
        computed = 0
        while True:
            missing = list({keys[n]: n for n in store.missing(keys)}.values())
            with store.claimed([keys[n] for n in missing]) as mine:
                positions = [missing[n] for n in mine]
                if positions:
                    arrays = self._rows_from_model(plan, batch, positions)
                    store.put([keys[n] for n in positions], arrays)
                    computed += len(positions)
            found = store.get(keys) if len(positions) == len(missing) else None
            if found is not None:
                self.statistics.misses += computed
                self.statistics.hits += batch.rows - computed
                return found
            if not missing:
                return None
            if not positions:
                time.sleep(POLL_S)

    def _rows_from_model(
        self, plan: CutPlan, batch: Batch, positions: Sequence[int]
    ) -> list[np.ndarray]:
        """Return the features of some rows of a batch."""
        if len(positions) == batch.rows:
            return self._from_model(plan, batch)[1]
        picked = list(positions)
        if plan.prefix.is_of_one_size(batch):
            # Another size would have to be compiled.
            picked += [positions[0]] * (batch.rows - len(positions))
        arrays = self._from_model(plan, batch.picked(picked))[1]
        return [array[: len(positions)] for array in arrays]

    def _from_model(self, plan: CutPlan, batch: Batch) -> tuple[list[Any], list[np.ndarray]]:
        begun = time.perf_counter()
        flat = plan.shared.compute(batch) if plan.shared else None
        if flat is None:
            flat = plan.prefix(batch)
        keeps_tensors = self.trackers[batch.kind].store.keeps_tensors
        if keeps_tensors and flat:
            wait_for(flat[-1])
        arrays = flat if keeps_tensors else list(map(to_host, flat))
        self.statistics.compute_s += time.perf_counter() - begun
        self.statistics.computed += batch.rows
        return flat, arrays

    def together(self, plan: CutPlan, batches: Sequence[Batch]) -> None:
        """Compute and keep the features of several batches as if they were one.

        Raises:
            OSError: if a file can't be written.
        """
        first, keys = batches[0], [key for batch in batches for key in batch.keys]
        self._use_shelf(plan, first)
        x = keras.tree.map_structure(_joined, *(batch.x for batch in batches))
        replica_rows = tuple(map(sum, zip(*(batch.replica_rows for batch in batches), strict=True)))
        whole = dataclasses.replace(first, x=x, replica_rows=replica_rows)
        _, arrays = self.computed(plan, whole, keys, None)
        self.keep(first, keys, arrays)
        self._ahead.update(keys)

    def _use_shelf(self, plan: CutPlan, batch: Batch) -> None:
        """Look up and keep where others do, if features are shared."""
        shelf = plan.shared.shelf(batch) if plan.shared else None
        if shelf is not None:
            self.trackers[batch.kind].use(shelf.store)

    def count_hits(self, keys: Sequence[Hashable]) -> None:
        """Count samples that were looked up, but for those that were computed ahead for this."""
        computed = self._ahead.intersection(keys)
        self._ahead -= computed
        self.statistics.hits += len(keys) - len(computed)

    def keep(self, batch: Batch, keys: Sequence[Hashable], arrays: Sequence[np.ndarray]) -> None:
        """Keep the features of a batch.

        Raises:
            OSError: if a file can't be written.
        """
        with self.statistics.lookup():
            self.trackers[batch.kind].keep(keys, arrays)
        self._count_bytes()

    def _count_bytes(self) -> None:
        total = sum(tracker.store.nbytes for tracker in self.trackers.values())
        self.statistics.nbytes = max(self.statistics.nbytes, total)

    def clear(self, kinds: Iterable[Kind]) -> None:
        """Remove all features of some kinds."""
        for kind in kinds:
            self.trackers[kind].clear()
            if kind == "train":
                self.visits.clear()
        self._ahead.clear()


def _joined(*leaves: Any) -> Any:
    return None if leaves[0] is None else keras.ops.concatenate(leaves)
