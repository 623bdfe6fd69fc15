"""Run the cache of one fit, batch by batch: cut, look up, audit, count."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.prefix_cache import planning
from keras_freeze.prefix_cache.batches import KINDS, Batch, Kind, UnreadableBatchError
from keras_freeze.prefix_cache.custom_step import broken_promise
from keras_freeze.prefix_cache.feature_lookup import FeatureLookup
from keras_freeze.prefix_cache.feature_store import RowStore
from keras_freeze.prefix_cache.frontier import Frontier
from keras_freeze.prefix_cache.planning import CutPlan, Options
from keras_freeze.prefix_cache.reasons import NoCut, Reason
from keras_freeze.prefix_cache.summary import Messages
from keras_freeze.prefix_cache.weight_watch import Watch

# How often the weights of the cached layers may change in a fit before the cache is disabled.
MAX_CHANGES = 3


class CacheRun:
    """The cache of one fit.

    Args:
        model: `keras.Model`, compiled.
        options: `Options`.
        new_store: Makes a `RowStore`.
        say: Prints a line.
    """

    def __init__(
        self,
        model: keras.Model,
        options: Options,
        new_store: Callable[[], RowStore],
        say: Callable[[str], None],
    ) -> None:
        self._model = model
        self._options = options
        self._lookup = FeatureLookup(new_store, options.steps)
        self.statistics = self._lookup.statistics
        self._messages = Messages(say)
        # Where the model can be cut; how it is cut, from the first batch on; or why it is not.
        # None until that is searched for, and again after the model has changed.
        self._cut: Frontier | CutPlan | NoCut | None = None
        self._last: CutPlan | None = None
        self._cut_kinds: set[Kind] = set()
        self._whole_kinds: set[Kind] = set()
        #: Those whose step is the user's own.
        self.custom_kinds = frozenset(k for k in KINDS if planning.own_code(model, k))
        self._changes = 0

    def is_possible(self) -> bool:
        """Tell whether any of the model's steps can be wrapped; print why if one can't."""
        reasons = {kind: self._reason_against(kind) for kind in KINDS}
        found = {kind: reason for kind, reason in reasons.items() if reason is not None}
        if len(found) == len(KINDS):
            self._leave_whole(found["train"])
        for kind, reason in found.items() if len(found) < len(KINDS) else ():
            self._check_wish(reason)
            self._whole_kinds.add(kind)
            self._messages.disabled(kind, reason)
        return len(found) < len(KINDS)

    def _reason_against(self, kind: Kind) -> NoCut | None:
        own = self._options.custom_step
        return planning.reason_against_step(self._model, kind, custom_step=own)

    def begin(self, kind: Kind) -> None:
        """Record that an epoch, or an evaluation, begins."""
        self._lookup.begin(kind)

    def wants(self, kind: Kind) -> bool:
        """Tell whether the next batch is looked at."""
        if isinstance(self._cut, CutPlan) and self._cut.is_outdated():
            self.model_changed()
        if self._cut is None:
            found = planning.search(self._model, self._options)
            if isinstance(found, NoCut):
                self._leave_whole(found)
            self._cut = found
        tracker = self._lookup.trackers[kind]
        # Where samples are not repeated, a step that is cut already stays so: it is traced.
        goes_on = tracker.is_active or kind in self._cut_kinds or self._options.inference
        is_cut = not isinstance(self._cut, NoCut) and kind not in self._whole_kinds
        if not (is_cut and goes_on):
            tracker.count()
        return is_cut and goes_on

    def cut(self, batch: Batch) -> tuple[CutPlan, list[Any]] | None:
        """Return how to cut the next step and what crosses the cut; None to leave it whole."""
        tracker = self._lookup.trackers[batch.kind]
        known = None
        try:
            if not batch.rows:
                return None
            if tracker.is_active:
                with self.statistics.lookup():
                    _ = batch.keys
            if isinstance(self._cut, Frontier):
                known = self._plan(self._cut, batch)
            plan = self._cut
            if not isinstance(plan, CutPlan):
                return None
            if self._weights_changed(plan, batch, thorough=tracker.is_at_start):
                known = None
            if self._cut is not plan:
                return None
            self._cut_kinds.add(batch.kind)
            features = self._features(plan, batch, known)
            return None if features is None else (plan, features)
        except UnreadableBatchError as error:
            self._leave_whole(NoCut(Reason.UNREADABLE, str(error)))
            return None
        finally:
            tracker.count()

    def after(self, kind: Kind, state: tuple[Any, ...]) -> None:
        """Follow the weights into the state that a step of JAX returned; check a user's own step.

        Raises:
            ValueError: if such a step has written to weights before the cut.
        """
        if not isinstance(self._cut, CutPlan):
            return
        watch, values = self._cut.watch, self._cut.values(state)
        if kind in self.custom_kinds:
            changed = watch.changed(values)
            if changed:
                path = watch.variables[changed[0]].path
                raise broken_promise(kind, f"writes to weights before the cut ({path})")
        elif values is not None:
            watch.follow(values)

    def model_changed(self) -> None:
        """Record that the model has changed: it may have to be cut elsewhere."""
        if isinstance(self._cut, CutPlan):
            self._last = self._cut
        self._cut = None
        self._cut_kinds.clear()
        for tracker in self._lookup.trackers.values():
            tracker.interrupt()

    def end(self) -> None:
        """Release the model and all that is kept."""
        self._cut = self._last = None
        self._lookup.clear()

    def _plan(self, frontier: Frontier, batch: Batch) -> list[Any] | None:
        """Decide how the model is cut; return what had to be computed of the batch for that."""
        last = self._last
        plan = planning.make(self._model, frontier, batch, last)
        if last is None or plan.watch is not last.watch:
            self._lookup.clear()
        if self._options.library is not None:
            plan.share(self._options.library, batch)
        is_kept = plan.shared is not None and self._lookup.trackers[batch.kind].is_active
        features: Sequence[Any] | None
        features = plan.shared.of_others(batch) if plan.shared and is_kept else None
        computed = None
        if features is None:
            tried = planning.trial(plan, batch)
            if isinstance(tried, NoCut):
                self._leave_whole(tried)
                return None
            features = computed = tried
        self._cut, self._last = plan, None
        if last is None or plan.place != last.place:
            self._messages.cut(
                frontier,
                features,
                rows=batch.rows,
                steps=self._options.steps,
                inference=self._options.inference,
            )
        return computed

    def _features(self, plan: CutPlan, batch: Batch, known: list[Any] | None) -> list[Any] | None:
        """Return the features of a batch; None if stored ones have turned out wrong."""
        tracker = self._lookup.trackers[batch.kind]
        if not tracker.is_active:
            self.statistics.misses += batch.rows
            return known or plan.prefix(batch)
        rows = self._lookup.stored(plan, batch)
        if rows is not None and self._lookup.passes_audit(plan, batch, rows):
            self.statistics.hits += batch.rows
            return [keras.ops.convert_to_tensor(row) for row in rows]
        if rows is not None:
            self._audit_failed(plan)
            if not self._options.inference:
                return None
        flat, arrays = self._lookup.computed(plan, batch, known)
        if tracker.is_active:
            self._keep(batch, arrays)
        return flat

    def _keep(self, batch: Batch, arrays: Sequence[np.ndarray]) -> None:
        try:
            self._lookup.keep(batch, arrays)
        except OSError as error:
            self._lookup.trackers[batch.kind].stop()
            warnings.warn(
                f"PrefixCache: caching is disabled, since features can't be written: {error}."
                " Free some space, or pass another directory= or a larger max_bytes=.",
                stacklevel=2,
            )
        else:
            if self._lookup.trackers[batch.kind].lacks_repeats:
                detail = "no sample of the previous epoch was repeated (random augmentation?)"
                self._stop(batch.kind, NoCut(Reason.NO_REPEATS, detail))

    def _audit_failed(self, plan: CutPlan) -> None:
        for tracker in self._lookup.trackers.values():
            tracker.stop()
        if not self._options.inference:
            self._cut = NoCut(Reason.FAILED_AUDIT)
        warnings.warn(
            f"PrefixCache: the output of {plan.frontier.name} for a sample differs from an earlier "
            "epoch, so caching is disabled. Epochs since then may have trained on outdated "
            "features. Please report the model: its layers were assumed to be deterministic.",
            stacklevel=2,
        )

    def _weights_changed(self, plan: CutPlan, batch: Batch, thorough: bool) -> bool:
        """Clear the cache if weights before the cut have changed; disable it if that persists."""
        values = plan.values(batch.state)
        changed = plan.watch.changed(values, thorough)
        if not changed:
            return False
        self._changes += 1
        name = plan.watch.variables[changed[0]].path
        plan.watch = Watch(plan.watch.variables, values)
        self._lookup.clear()
        if plan.shared:
            plan.shared.forget()  # its latest features may be of the new weights
        if self._options.library is not None:
            plan.share(self._options.library, batch)
        if self._changes > MAX_CHANGES and not self._options.inference:
            detail = f"weights before the cut keep changing ({name})"
            self._cut = NoCut(Reason.WEIGHTS_CHANGE, detail)
            self._messages.not_used(self._cut)
        else:
            self._messages.cleared(name)
        return True

    def _leave_whole(self, no_cut: NoCut) -> None:
        self._check_wish(no_cut)
        self._cut, self._last = no_cut, None
        self._lookup.clear()
        self._messages.not_used(no_cut)

    def _check_wish(self, no_cut: NoCut) -> None:
        if self._options.inference and not no_cut.reason.is_expected:
            raise ValueError(
                'PrefixCache(mode="inference") must be able to cut the model behind its frozen '
                f"layers. Received: model={self._model.name!r}, but {no_cut.detail}. Leave out "
                'mode="inference".'
            )

    def _stop(self, kind: Kind, no_cut: NoCut) -> None:
        self._lookup.trackers[kind].stop()
        self._messages.disabled(kind, no_cut)
