"""Run the cache of one fit, batch by batch: cut, look up, audit, count."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_freeze.cuts import Frontier, NoCut, Reason
from keras_freeze.features import Store, bytes_on_disk
from keras_freeze.prefix_cache import planning
from keras_freeze.prefix_cache.audit import to_host
from keras_freeze.prefix_cache.batches import KINDS, Batch, Kind, UnreadableBatchError, placed
from keras_freeze.prefix_cache.custom_step import broken_promise
from keras_freeze.prefix_cache.feature_lookup import FeatureLookup
from keras_freeze.prefix_cache.planning import CutPlan, Options
from keras_freeze.prefix_cache.summary import Messages
from keras_freeze.prefix_cache.weight_watch import Watch

# About what a kept row has besides its features.
HEADER_BYTES = 64

# How often the weights of the cached layers may change in a fit before the cache is disabled.
MAX_CHANGES = 3


@dataclasses.dataclass(eq=False)
class _Part:
    """How the steps of some kinds are cut in the present state of the model.

    Attributes:
        kinds: Of the steps. Training and validation are one part where the same is kept for both.
        cut: Where the model can be cut; how it is cut, from the first batch on; or why it is not.
        last: How it was cut before the model changed, until that is known again.
    """

    kinds: tuple[Kind, ...]
    cut: Frontier | CutPlan | NoCut
    last: CutPlan | None


class CacheRun:
    """The cache of one fit.

    Args:
        model: `keras.Model`, compiled.
        options: `Options`.
        new_store: Makes a `Store`.
        say: Prints a line.
    """

    def __init__(
        self,
        model: keras.Model,
        options: Options,
        new_store: Callable[[], Store],
        say: Callable[[str], None],
    ) -> None:
        self._model = model
        self._options = options
        self._lookup = FeatureLookup(new_store, options.steps)
        self.statistics = self._lookup.statistics
        self._messages = Messages(say)
        # By kind; empty until a cut is searched for, and again after the model has changed.
        self._parts: dict[Kind, _Part] = {}
        self._last: dict[Kind, CutPlan] = {}
        self._cut_kinds: set[Kind] = set()
        self._whole_kinds: set[Kind] = set()
        self._changes = 0
        #: Those whose step is the user's own.
        self.custom_kinds = self._custom_kinds()

    def _custom_kinds(self) -> frozenset[Kind]:
        own = {kind: planning.own_code(self._model, kind) - planning.OURS for kind in KINDS}
        return frozenset(kind for kind in KINDS if own[kind])

    def is_possible(self) -> bool:
        """Tell whether any of the model's steps can be wrapped; print why if one can't."""
        reasons = {kind: self._reason_against(kind) for kind in KINDS}
        found = {kind: reason for kind, reason in reasons.items() if reason is not None}
        for reason in found.values():
            self._check_wish(reason)
        if len(found) == len(KINDS):
            self._messages.not_used(found["train"])
            return False
        for kind, reason in found.items():
            self._whole_kinds.add(kind)
            self._messages.disabled(kind, reason)
        return True

    def _reason_against(self, kind: Kind, *, is_wrapped: bool = False) -> NoCut | None:
        own = self._options.custom_step
        return planning.reason_against_step(
            self._model, kind, custom_step=own, is_wrapped=is_wrapped
        )

    def begin(self, kind: Kind) -> None:
        """Record that an epoch, or an evaluation, begins."""
        self._lookup.begin(kind)

    def wants(self, kind: Kind) -> bool:
        """Tell whether the next batch is looked at."""
        cuts = [part.cut for part in self._parts.values()]
        if any(isinstance(cut, CutPlan) and cut.is_outdated() for cut in cuts):
            self.model_changed()
        if not self._parts:
            self._search()
        tracker = self._lookup.trackers[kind]
        # Where samples are not repeated, a step that is cut already stays so: it is traced.
        goes_on = tracker.is_active or kind in self._cut_kinds or self._options.inference
        is_cut = not isinstance(self._parts[kind].cut, NoCut) and kind not in self._whole_kinds
        if not (is_cut and goes_on):
            tracker.count()
        return is_cut and goes_on

    def describe(self) -> str:
        """Return in words what is cached of training at present; "" where that isn't known yet."""
        part = self._parts.get("train")
        if "train" in self._whole_kinds:
            return "not used in training"
        if part is None:
            return ""
        if isinstance(part.cut, NoCut):
            is_told = part.cut.detail and not part.cut.reason.is_expected
            return f"not used: {part.cut.detail}" if is_told else "not used in this phase"
        if not self._lookup.trackers["train"].is_active:
            return "disabled for training"
        frontier = part.cut.frontier if isinstance(part.cut, CutPlan) else part.cut
        share = int(100 * frontier.share)
        return f"cuts at {frontier.name}, skips {share} % of the forward pass"

    def stays_whole(self, kind: Kind) -> bool:
        """Tell whether steps of a kind are left whole for as long as the model stays as it is."""
        return kind in self._whole_kinds or isinstance(self._parts[kind].cut, NoCut)

    def _search(self) -> None:
        """Search for a cut; for validation another one, if that can be cut deeper or alone."""
        # Anew, since a step may have been set in the meantime.
        self.custom_kinds = self._custom_kinds()
        for kind in KINDS:
            reason = self._reason_against(kind, is_wrapped=True)
            if reason is not None and kind not in self._whole_kinds:
                self._whole_kinds.add(kind)
                self._messages.disabled(kind, reason)
        train = test = planning.search(self._model, self._options)
        if isinstance(train, NoCut) or train.ended_by is not None or train.augmentation:
            test = planning.search(self._model, self._options, "test")
        is_drawn = isinstance(train, Frontier) and train.augmentation is not None
        if planning.is_same_place(train, test) or (isinstance(test, NoCut) and not is_drawn):
            self._parts = dict.fromkeys(KINDS, _Part(KINDS, train, self._last.get("train")))
        else:
            both = {"train": train, "test": test}
            self._parts = {kind: _Part((kind,), both[kind], self._last.get(kind)) for kind in KINDS}
        for part in dict.fromkeys(self._parts.values()):
            if isinstance(part.cut, NoCut):
                self._leave_whole(part, part.cut)

    def cut(self, batch: Batch) -> tuple[CutPlan, list[Any]] | None:
        """Return how to cut the next step and what crosses the cut; None to leave it whole."""
        part, tracker = self._parts[batch.kind], self._lookup.trackers[batch.kind]
        known = None
        try:
            if not batch.rows:
                return None
            if tracker.is_active:
                batch.wait()  # for the step before it, whose time is not that of the lookup
                with self.statistics.lookup():
                    _ = batch.keys
            if isinstance(part.cut, Frontier):
                known, batch = self._plan(part, part.cut, batch)
            plan = part.cut
            if not isinstance(plan, CutPlan):
                return None
            if self._weights_changed(part, plan, batch, thorough=tracker.is_at_start):
                known = None
            if part.cut is not plan:
                return None
            self._cut_kinds.add(batch.kind)
            features = self._features_or_none_kept(plan, batch, known)
            if features is not None and not batch.replica_rows:  # else they are divided
                features = [placed(each) for each in features]
            return None if features is None else (plan, list(features))
        except UnreadableBatchError as error:
            self._leave_whole(part, NoCut(Reason.UNREADABLE, str(error)))
            return None
        finally:
            tracker.count()

    @property
    def look_ahead(self) -> int:
        """Int, batches whose features are computed together."""
        return self._options.look_ahead

    @property
    def keeps_long(self) -> bool:
        """Bool, whether features outlive the fit."""
        library = self._options.library
        return library is not None and library.is_kept

    def lacks(self, batch: Batch) -> bool:
        """Tell whether features of a batch are to be computed together with those of others."""
        plan, tracker = self._plan_of(batch.kind), self._lookup.trackers[batch.kind]
        if plan is None or plan.draw is not None or not tracker.is_active:
            return False
        try:
            if not batch.rows:
                return False
            return tracker.store.hits(batch.keys) < len(batch.keys)
        except (UnreadableBatchError, OSError):  # reported when the batch is used
            return False

    def compute_together(self, batches: Sequence[Batch]) -> None:
        """Compute and keep the features that are missing, of the first batch and those like it."""
        plan, shapes = self._plan_of(batches[0].kind), batches[0].shapes
        group = [batch for batch in batches if batch.shapes == shapes and self.lacks(batch)]
        if plan is None or len(group) < 2:
            return
        try:
            self._lookup.together(plan, group)
        except OSError:  # reported when the batches are used
            return

    def _plan_of(self, kind: Kind) -> CutPlan | None:
        part = self._parts.get(kind)
        return part.cut if part is not None and isinstance(part.cut, CutPlan) else None

    def after(self, kind: Kind, state: tuple[Any, ...]) -> None:
        """Follow the weights into the state that a step of JAX returned; check a user's own step.

        Raises:
            ValueError: if such a step has written to weights before the cut.
        """
        for part in dict.fromkeys(self._parts.values()):
            if not isinstance(part.cut, CutPlan):
                continue
            watch, values = part.cut.watch, part.cut.values(state)
            if kind in self.custom_kinds:
                changed = watch.changed(values)
                if changed:
                    path = watch.variables[changed[0]].path
                    raise broken_promise(kind, f"writes to weights before the cut ({path})")
            elif values is not None:
                watch.follow(values)

    def model_changed(self) -> None:
        """Record that the model has changed: it may have to be cut elsewhere."""
        for kind, part in self._parts.items():
            if isinstance(part.cut, CutPlan):
                self._last[kind] = part.cut
        self._parts = {}
        self._cut_kinds.clear()
        for tracker in self._lookup.trackers.values():
            tracker.interrupt()

    def end(self) -> None:
        """Release the model and all that is kept; withdraw what may be of other weights."""
        is_on_jax = keras.backend.backend() == "jax"  # where every write was seen
        for part in dict.fromkeys(self._parts.values()):
            plan = part.cut
            if not isinstance(plan, CutPlan) or not plan.shared or is_on_jax:
                continue
            if plan.watch.changed(thorough=True):
                with contextlib.suppress(OSError):
                    plan.shared.forget()
        self._parts, self._last = {}, {}
        self._lookup.clear(KINDS)

    def _plan(
        self, part: _Part, frontier: Frontier, batch: Batch
    ) -> tuple[list[Any] | None, Batch]:
        """Decide how the model is cut.

        Returns:
            Tuple of what had to be computed of the batch for that, and the batch, augmented.
        """
        last = part.last
        plan = planning.make(self._model, frontier, batch, last, lowers=self._options.lowers)
        # Views start over, since the model may be augmented otherwise.
        is_other = last is None or plan.watch is not last.watch or plan.draw is not None
        self._lookup.clear(k for k in part.kinds if is_other or self._last.get(k) is not last)
        library = self._options.library
        if library is not None and (plan.draw is None or library.is_kept):
            plan.share(library, batch)
            if plan.shared is None and library.is_kept:
                self._messages.not_named(frontier)
        is_kept = plan.shared is not None and self._lookup.trackers[batch.kind].is_active
        features: Sequence[Any] | None = None
        if plan.shared and is_kept and plan.draw is None:
            with contextlib.suppress(OSError):  # it is told of when they are looked up
                features = plan.shared.of_others(batch)
        computed = None
        if features is None:
            batch = plan.augmented(batch)
            tried = planning.trial(plan, batch)
            if isinstance(tried, NoCut):
                self._leave_whole(part, tried)
                return None, batch
            features = computed = tried
        part.cut, part.last = plan, None
        for kind in part.kinds:
            self._last.pop(kind, None)
        row_bytes = sum(to_host(tensor).nbytes for tensor in features) / max(1, batch.rows)
        views = self._views(batch, row_bytes) if plan.draw is not None else None
        if views is None and self._options.views is not None and "train" in part.kinds:
            self._messages.no_views()
        in_training = "train" in part.kinds and "train" not in self._whole_kinds
        if last is None or plan.place != last.place or views is not None:
            self._messages.cut(
                frontier,
                row_bytes,
                rows=batch.rows,
                steps=self._options.steps if in_training else None,
                inference=self._options.inference,
                lowered=plan.prefix.lowered,
                validation=not in_training,
                views=views,
            )
        return computed, batch

    def _views(self, batch: Batch, row_bytes: float) -> int:
        """Set how many views are kept: as many as were asked for, or as fit into `max_bytes`."""
        views, steps, limit = self._options.views or 1, self._options.steps, self._options.max_bytes
        if self.keeps_long:
            row_bytes = bytes_on_disk(row_bytes + HEADER_BYTES)
        if limit is not None and steps is not None:
            views = max(1, min(views, int(limit // max(1.0, row_bytes * steps * batch.rows))))
        self._lookup.visits.count = views
        return views

    def _features(
        self, plan: CutPlan, batch: Batch, known: list[Any] | None
    ) -> Sequence[Any] | None:
        """Return the features of a batch; None if stored ones have turned out wrong."""
        tracker = self._lookup.trackers[batch.kind]
        if not tracker.is_active:
            self.statistics.misses += batch.rows
            return known or plan.prefix(plan.augmented(batch))
        keys, seen = self._lookup.keys_of(plan, batch)
        rows = self._lookup.stored(plan, batch, keys, seen)
        if rows is not None and self._lookup.passes_audit(plan, batch, rows):
            self._lookup.count_hits(keys)
            return rows
        if rows is not None:
            self._audit_failed(plan)
            return plan.prefix(plan.augmented(batch)) if self._options.inference else None
        if plan.draw is not None:
            if not batch.drawn:
                batch, known = plan.augmented(batch), None
            plan.audit.keep(batch, keys)
        flat, arrays = self._lookup.computed(plan, batch, keys, known)
        self._lookup.keep(batch, keys, arrays)
        if tracker.lacks_repeats:
            detail = (
                "no sample of the previous epoch was repeated, as where samples are augmented at "
                "random or epochs are shorter than the data. Random augmentation can be kept if "
                "its layers are the first of the model: PrefixCache(views=8)"
            )
            self._stop(batch.kind, NoCut(Reason.NO_REPEATS, detail))
        return flat

    def _features_or_none_kept(
        self, plan: CutPlan, batch: Batch, known: list[Any] | None
    ) -> Sequence[Any] | None:
        """Return the features of a batch, where files may fail."""
        try:
            return self._features(plan, batch, known)
        except OSError as error:
            self._lookup.trackers[batch.kind].stop()
            warnings.warn(
                f"PrefixCache: caching is disabled, since features can't be written: {error}."
                " Free some space, or pass another directory= or a larger max_bytes=.",
                stacklevel=2,
            )
            return self._features(plan, batch, known)

    def _audit_failed(self, plan: CutPlan) -> None:
        for tracker in self._lookup.trackers.values():
            tracker.stop(wrong=True)
        if not self._options.inference:
            for part in self._parts.values():
                part.cut = NoCut(Reason.FAILED_AUDIT)
        error = plan.audit.error
        if error is not None:
            warnings.warn(
                f"PrefixCache: {plan.frontier.name} can't be computed of some samples alone, so "
                f"caching is disabled: {type(error).__name__}: {error}",
                stacklevel=2,
            )
            return
        used = "Epochs since the last comparison may have trained on outdated features."
        if not self.statistics.hits:
            used = "None of what was kept has been used."
        warnings.warn(
            f"PrefixCache: the output of {plan.frontier.name} for a sample differs from an earlier "
            "one, so caching is disabled: it depends on other samples or on chance, which its "
            f"layers were assumed not to do. {used} Please report the model.",
            stacklevel=2,
        )

    def _weights_changed(self, part: _Part, plan: CutPlan, batch: Batch, *, thorough: bool) -> bool:
        """Clear the cache if weights before the cut have changed; disable it if that persists."""
        values = plan.values(batch.state)
        changed = plan.watch.changed(values, thorough)
        if not changed:
            return False
        self._changes += 1
        name = plan.watch.variables[changed[0]].path
        plan.watch = Watch(plan.watch.variables, values)
        self._lookup.clear(part.kinds)
        if plan.shared:
            with contextlib.suppress(OSError):  # on a full disk; then nothing is found again
                plan.shared.forget()  # its latest features may be of the new weights
        if self._options.library is not None:
            plan.share(self._options.library, batch)
        if self._changes > MAX_CHANGES and not self._options.inference:
            detail = f"weights before the cut keep changing ({name})"
            part.cut = NoCut(Reason.WEIGHTS_CHANGE, detail)
            self._messages.not_used(part.cut)
        else:
            self._messages.cleared(name)
        return True

    def _leave_whole(self, part: _Part, no_cut: NoCut) -> None:
        self._check_wish(no_cut)
        part.cut, part.last = no_cut, None
        for kind in part.kinds:
            self._last.pop(kind, None)
        self._lookup.clear(part.kinds)
        if part.kinds == KINDS:
            self._messages.not_used(no_cut)
        elif not no_cut.reason.is_expected:
            self._messages.disabled(part.kinds[0], no_cut)

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
