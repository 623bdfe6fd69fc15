"""Conduct the cache of one fit, batch by batch: cut, look up, audit, count."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.prefix_cache import lines, planning
from keras_freeze.prefix_cache.audit import to_host
from keras_freeze.prefix_cache.batches import Batch, UnreadableBatchError, keys_of
from keras_freeze.prefix_cache.determinism import Setting
from keras_freeze.prefix_cache.feature_library import Library
from keras_freeze.prefix_cache.feature_store import RowStore
from keras_freeze.prefix_cache.model_cut import Frontier, find
from keras_freeze.prefix_cache.planning import CutPlan
from keras_freeze.prefix_cache.reuse_tracker import Kept
from keras_freeze.prefix_cache.sharing import SharedCut
from keras_freeze.prefix_cache.statistics import Statistics
from keras_freeze.prefix_cache.weight_watch import Watch
from keras_freeze.prefix_cache.wrapped_steps import Kind

# So often the weights of the cached layers may change in a fit before it goes on uncached.
MOST_CHANGES = 3
# Evaluations after which samples of validation are expected to come again. A single one without
# them may have been on other data, by some other callback.
EVALUATIONS = 4


class CacheRun:
    """The cache of one fit.

    Args:
        model: `keras.Model`, compiled.
        inference: Bool, whether frozen layers are called as at inference.
        auto: Bool, whether to leave out what would not pay.
        new_store: Makes a `RowStore`.
        steps: Int, batches in an epoch; None if not known.
        epochs_left: Returns the epochs that the model will stay frozen as it is; None if that is
            not known.
        say: Prints a line.
        library: `Library` to share features with other trainings; None to share none.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        inference: bool,
        auto: bool,
        new_store: Callable[[], RowStore],
        steps: int | None,
        epochs_left: Callable[[], int | None],
        say: Callable[[str], None],
        library: Library | None = None,
    ) -> None:
        self.statistics = Statistics()
        self._model = model
        self._inference = inference
        self._auto = auto
        self._steps = steps
        self._epochs_left = epochs_left
        self._say = say
        self._library = library
        self._found: Frontier | None = None
        self._is_searched = False
        self._plan: CutPlan | None = None
        self._last: CutPlan | None = None
        self._kept: dict[Kind, Kept] = {
            "train": Kept(new_store(), passes=1, enough=max(1, (steps or 16) // 4)),
            "test": Kept(new_store(), passes=EVALUATIONS, enough=1),
        }
        self._off: set[Kind] = set()
        self._cut_kinds: set[Kind] = set()
        self._changes = 0
        self._is_small = False
        self._is_audited = False
        self._said = ""
        self._first: list[Any] | None = None
        self._is_eager = model.run_eagerly or keras.backend.backend() == "torch"
        self._settings: tuple[Any, ...] = ()

    # What steps and the callback ask.

    def is_possible(self) -> bool:
        """Tell whether the model's steps can be wrapped; say it if they can't."""
        reason = planning.reason_against(self._model)
        if reason:
            self._leave_whole(reason)
        return not reason

    def wants(self, kind: Kind) -> bool:
        """Tell whether the next batch is to be looked at."""
        if self._plan is not None and self._is_eager and self._plan.settings() != self._settings:
            self.forget()  # which takes effect without a new step where nothing is traced
        if not self._is_searched:
            self._search()
        # Where samples don't come again, a step that is cut already stays so: it is traced.
        goes_on = self._kept[kind].repeats or kind in self._cut_kinds or self._inference
        is_wanted = self._found is not None and goes_on and kind not in self._off
        if not is_wanted:
            self._kept[kind].count()
        return is_wanted

    def cut(self, kind: Kind, batch: Batch) -> tuple[CutPlan, list[Any]] | None:
        """Return how to cut the next step and what crosses the cut; None to leave it whole."""
        keys: list[bytes] = []
        if self._kept[kind].repeats:
            begun = time.perf_counter()
            try:
                keys = keys_of(batch.x, batch.promised_rows)
            except UnreadableBatchError as error:
                self._leave_whole(str(error))
                return None
            self.statistics.lookup_s += time.perf_counter() - begun
        if self._plan is None and self._found is not None:
            self._make_plan(self._found, kind, batch, keys)
        try:
            return self._cut(kind, batch, keys)
        finally:
            self._first = None
            self._kept[kind].count()

    def after(self, kind: Kind, state: tuple[Any, ...]) -> None:
        """Take note of the state that a step of JAX returned."""
        name = f"{kind}_step"
        is_own = getattr(type(self._model), name) is not getattr(keras.Model, name)
        if self._plan is not None and not is_own:  # for that may write to what is frozen
            self._plan.watch.follow(self._plan.values(state) or [])

    def unused(self, kind: Kind) -> None:
        """Take note that a step does not call the model on its batch."""
        if self._inference:
            raise ValueError(
                'PrefixCache(mode="inference") must have a train_step and test_step that call the '
                "model on the batch they get. Received: a model whose "
                f'{kind}_step does not. Leave out mode="inference".'
            )
        self._stop(kind, f"the model's {kind}_step does not call it on the batch that it gets")
        self._off.add(kind)

    def forget(self) -> None:
        """Take note that the model has changed: it may have to be cut elsewhere."""
        self._last = self._plan or self._last
        self._plan = self._found = None
        self._cut_kinds.clear()
        self._is_searched = False
        for kept in self._kept.values():
            kept.break_off()

    def begin(self, kind: Kind) -> None:
        """Take note that an epoch, or an evaluation, begins."""
        self._kept[kind].begin()
        if kind == "train":
            self._is_audited = False

    def end(self) -> None:
        """Let go of the model and of all that was kept."""
        self._plan = self._last = self._found = self._first = None
        for kept in self._kept.values():
            kept.clear()

    # How a plan is made.

    def _search(self) -> None:
        """Find where the model can be cut, as it is now."""
        self._is_searched = True
        model = self._model
        trained = {id(v) for v in model.trainable_variables}
        found = find(model, Setting(trained, self._inference))
        if isinstance(found, str):
            self._leave_whole(found)
            return
        is_wanted = not self._auto or self._inference
        comes_again = self._epochs_left() != 1 or self._library is not None
        if is_wanted or (comes_again and planning.is_heavy(found)):
            self._found = found
        elif not comes_again or self._is_small:
            self._leave_whole("")  # the phase is short, or it has been said
        else:
            self._is_small = True
            ends = f"; it ends there since {found.ended_by}" if found.ended_by else ""
            self._leave_whole(
                f"the frozen part (up to {found.name}{ends}) takes too little of a step to be "
                "worth it. Pass PrefixCache(auto=False) to try"
            )

    def _make_plan(self, found: Frontier, kind: Kind, batch: Batch, keys: Sequence[bytes]) -> None:
        last = self._last
        plan = planning.make(self._model, found, self._inference, batch, last)
        if last is None or plan.watch is not last.watch:
            self._clear()
        self._share(plan, batch)
        features: Sequence[Any] | None = self._of_others(plan, kind, batch, keys)
        if features is None:
            tried = planning.trial(plan, batch)
            if isinstance(tried, str):
                self._leave_whole(tried)
                return
            features = self._first = tried
        self._plan, self._settings = plan, plan.settings()
        self._last = None
        if last is None or plan.place != last.place:
            self._tell(lines.of_cut(found, features, batch.rows, self._steps, self._inference))

    def _share(self, plan: CutPlan, batch: Batch) -> None:
        if self._library is not None:
            present = plan.values(batch.state) or []
            values = dict(zip(map(id, plan.watch.variables), present, strict=bool(present)))
            by_name = isinstance(batch.x, Mapping)
            shared = SharedCut(self._library, plan.prefix, values, by_name=by_name)
            plan.shared = shared if shared.is_possible else None

    def _of_others(
        self, plan: CutPlan, kind: Kind, batch: Batch, keys: Sequence[bytes]
    ) -> list[np.ndarray] | None:
        """Return the features of a batch if another training has computed all of them."""
        shelf = plan.shared.shelf(kind, batch) if plan.shared and keys else None
        rows = shelf.store.get(keys) if shelf else None
        if plan.shared and shelf and rows is not None:
            plan.shared.adopt(shelf, batch)
        return rows

    def _leave_whole(self, reason: str) -> None:
        if self._inference and reason:
            raise ValueError(
                'PrefixCache(mode="inference") must be able to cut the model behind its frozen '
                f"layers. Received: model={self._model.name!r}, but {reason}. Leave out "
                'mode="inference".'
            )
        self._found = self._last = None
        self._clear()
        if reason:
            self._tell(f"cache: not used, since {reason}.")

    def _tell(self, text: str) -> None:
        if text != self._said:
            self._say(text)
        self._said = text

    # How a batch's features come about.

    def _cut(self, kind: Kind, batch: Batch, keys: list[bytes]) -> tuple[CutPlan, list[Any]] | None:
        plan, kept = self._plan, self._kept[kind]
        if plan is None or not self._has_its_weights(plan, batch, thorough=kept.is_at_begin):
            return None
        self._cut_kinds.add(kind)
        if not keys:
            self.statistics.misses += batch.rows
            return plan, self._first or plan.prefix(batch)
        features = self._looked_up(kind, plan, batch, keys)
        return None if self._plan is None else (plan, features)

    def _looked_up(
        self, kind: Kind, plan: CutPlan, batch: Batch, keys: Sequence[bytes]
    ) -> list[Any]:
        begun = time.perf_counter()
        if plan.shared:
            shelf = plan.shared.shelf(kind, batch)
            if shelf is not None:
                self._kept[kind].use(shelf.store)
        rows = self._kept[kind].look_up(keys)
        self.statistics.lookup_s += time.perf_counter() - begun
        if rows is not None:
            if self._is_audited or self._passes_audit(plan, batch, rows):
                self._is_audited = True
                self.statistics.hits += len(keys)
                return [keras.ops.convert_to_tensor(row) for row in rows]
            for every in self._kept.values():
                every.stop()
            if not self._inference:
                self._plan = self._found = None
        flat, arrays = self._computed(kind, plan, batch, keys)
        if self._kept[kind].repeats:
            self._keep(kind, keys, arrays)
        return flat

    def _computed(
        self, kind: Kind, plan: CutPlan, batch: Batch, keys: Sequence[bytes]
    ) -> tuple[list[Any], list[np.ndarray]]:
        self.statistics.misses += batch.rows
        if self._first is not None:
            return self._first, [to_host(tensor) for tensor in self._first]
        begun = time.perf_counter()
        flat = plan.shared.compute(kind, batch, keys) if plan.shared else None
        if flat is None:
            flat = plan.prefix(batch)
        arrays = [to_host(tensor) for tensor in flat]
        self.statistics.compute_s += time.perf_counter() - begun
        self.statistics.computed += batch.rows
        return flat, arrays

    def _keep(self, kind: Kind, keys: Sequence[bytes], arrays: Sequence[np.ndarray]) -> None:
        begun = time.perf_counter()
        try:
            self._kept[kind].keep(keys, arrays)
        except OSError as error:
            self._stop(kind, "")
            warnings.warn(
                f"PrefixCache: training goes on uncached, since features can't be written: {error}."
                " Free some space, or pass another directory= or a larger max_bytes=.",
                stacklevel=2,
            )
        total = sum(kept.store.nbytes for kept in self._kept.values())
        self.statistics.nbytes = max(self.statistics.nbytes, total)
        self.statistics.lookup_s += time.perf_counter() - begun
        if self._kept[kind].is_in_vain:
            self._stop(kind, "no sample of the epoch before has come again (random augmentation?)")

    def _stop(self, kind: Kind, reason: str) -> None:
        self._kept[kind].stop()
        if reason:
            what = "training" if kind == "train" else "validation"
            self._tell(f"cache: {what} goes on without, since {reason}.")

    def _clear(self) -> None:
        for kept in self._kept.values():
            kept.clear()

    # What must hold.

    def _passes_audit(self, plan: CutPlan, batch: Batch, rows: Sequence[np.ndarray]) -> bool:
        if plan.audit.passes(batch, rows, self.statistics.sample_s * batch.rows):
            return True
        warnings.warn(
            f"PrefixCache: the output of {plan.frontier.name} for a sample is not what it was in "
            "an earlier epoch, so training goes on uncached. Epochs since then may have trained on "
            "outdated features. Please report the model: its layers were taken for deterministic.",
            stacklevel=2,
        )
        return False

    def _has_its_weights(self, plan: CutPlan, batch: Batch, thorough: bool) -> bool:
        """Empty the cache if weights have changed; tell whether it is still to be used."""
        values = plan.values(batch.state)
        changed = plan.watch.changed(values, thorough)
        if not changed:
            return True
        self._changes += 1
        name = plan.watch.variables[changed[0]].path
        plan.watch = Watch(plan.watch.variables, values)
        self._clear()
        if plan.shared:
            plan.shared.forget()  # what was computed since may be of the new ones
        self._share(plan, batch)
        self._first = None
        if self._changes > MOST_CHANGES and not self._inference:
            self._plan = self._found = None
            self._tell(f"cache: not used any more, since weights keep changing ({name}).")
            return False
        self._tell(f"cache: emptied, since weights before the cut have changed ({name}).")
        return True
