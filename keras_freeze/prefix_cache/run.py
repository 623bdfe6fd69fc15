"""Decide, batch by batch, what a cache does in one fit, and count what it gives."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.prefix_cache.determinism import Setting
from keras_freeze.prefix_cache.frontier import Frontier, find
from keras_freeze.prefix_cache.halves import Prefix
from keras_freeze.prefix_cache.replay import NotReachedError
from keras_freeze.prefix_cache.row_store import RowStore
from keras_freeze.prefix_cache.samples import UnreadableBatchError, keys_of
from keras_freeze.prefix_cache.statistics import Statistics
from keras_freeze.prefix_cache.steps import Kind
from keras_freeze.prefix_cache.unchanged import Watch
from keras_freeze.reports import readable_bytes

# Below so many multiplications a sample, or this part of the forward pass, the frozen part takes
# less time than it takes to tell samples apart and to call two functions instead of one.
LEAST_WORK = 1e6
LEAST_SHARE = 0.05
# Samples of a batch that are computed again, alone, to see that they come out the same.
AUDITED = 2
# So often the weights of the cached layers may change in a fit before it goes on uncached.
MOST_CHANGES = 3


@dataclasses.dataclass(eq=False)
class CutPlan:
    """How a model is cut in the present phase.

    Attributes:
        frontier: Where.
        prefix: Computes what crosses it.
        watch: Its weights.
        positions: Of these weights in what JAX's trainer passes into a step.
    """

    frontier: Frontier
    prefix: Prefix
    watch: Watch
    positions: tuple[int, ...]

    def values(self, state: tuple[Any, ...]) -> list[Any] | None:
        """Return the values of the weights in a step of JAX, None elsewhere."""
        if not state:
            return None
        both = [*state[0], *state[1]]
        return [both[n] for n in self.positions]


@dataclasses.dataclass
class _Pass:
    """One epoch's batches of one kind.

    Attributes:
        earlier: Int, whole epochs before it since the model was cut where it is.
        batches: Int, of this epoch.
        hits: Int, samples found.
        is_whole: Bool, whether the model was cut there at the beginning of the epoch.
    """

    earlier: int = 0
    batches: int = 0
    hits: int = 0
    is_whole: bool = True


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
    ) -> None:
        self.statistics = Statistics()
        self._model = model
        self._inference = inference
        self._auto = auto
        self._new_store = new_store
        self._steps = steps
        self._epochs_left = epochs_left
        self._say = say
        self._found: Frontier | None = None
        self._is_searched = False
        self._plan: CutPlan | None = None
        self._last: CutPlan | None = None
        self._stores: dict[Kind, RowStore] = {"train": new_store(), "test": new_store()}
        self._passes: dict[Kind, _Pass] = {"train": _Pass(), "test": _Pass()}
        self._off: dict[Kind, bool] = {"train": False, "test": False}
        self._repeats: dict[Kind, bool] = {"train": True, "test": True}
        self._changes = 0
        self._is_small = False
        self._is_audited = False
        self._said = ""
        self._first: tuple[Any, list[Any]] | None = None
        self._is_eager = model.run_eagerly or keras.backend.backend() == "torch"
        self._flags: tuple[bool, ...] = ()

    # What steps and the callback ask.

    def is_possible(self) -> bool:
        """Tell whether the model's steps can be wrapped; say it if they can't."""
        reason = _unsupported(self._model)
        if reason:
            self._leave_whole(reason)
        return not reason

    def wants(self, kind: Kind) -> bool:
        """Tell whether the next batch is to be looked at."""
        if self._off[kind]:
            return False
        if self._plan is not None and self._is_eager and _flags(self._plan) != self._flags:
            self.forget()  # which takes effect without a new step where nothing is traced
        if not self._is_searched:
            self._search()
        goes_on = self._repeats[kind] or self._plan is not None or self._inference
        return self._found is not None and goes_on

    def cut(self, kind: Kind, state: tuple[Any, ...], x: Any) -> tuple[CutPlan, list[Any]] | None:
        """Return how to cut the next step and what crosses the cut; None to leave it whole."""
        keys: list[bytes] = []
        if self._repeats[kind]:
            try:
                keys = self._keys(x)
            except UnreadableBatchError as error:
                self._leave_whole(str(error))
                return None
        if self._plan is None and self._found is not None:
            self._make_plan(self._found, state, x)
        try:
            return self._cut(kind, state, x, keys)
        finally:
            self._first = None

    def _cut(
        self, kind: Kind, state: tuple[Any, ...], x: Any, keys: list[bytes]
    ) -> tuple[CutPlan, list[Any]] | None:
        plan, this = self._plan, self._passes[kind]
        if plan is None or not self._has_its_weights(plan, state, thorough=this.batches == 0):
            return None
        self._passes[kind].batches += 1
        if keys:
            features = self._looked_up(kind, plan, state, x, keys)
            return None if self._plan is None else (plan, features)
        self.statistics.misses += _rows(x)
        return plan, plan.prefix(x, state)

    def _keys(self, x: Any) -> list[bytes]:
        begun = time.perf_counter()
        keys = keys_of(x)
        self.statistics.lookup_s += time.perf_counter() - begun
        return keys

    def after(self, kind: Kind, state: tuple[Any, ...]) -> None:
        """Take note of the state that a step of JAX returned."""
        if self._plan is not None:
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
        self._off[kind] = True

    def forget(self) -> None:
        """Take note that the model has changed: it may have to be cut elsewhere."""
        self._last = self._plan or self._last
        self._plan = self._found = None
        self._is_searched = False
        for this in self._passes.values():
            this.is_whole = this.batches == 0

    def begin(self, kind: Kind) -> None:
        """Take note that an epoch, or an evaluation, begins."""
        last = self._passes[kind]
        earlier = last.earlier + (last.is_whole and last.batches > 0)
        self._passes[kind] = _Pass(earlier=earlier)
        if kind == "train":
            self._is_audited = False

    def end(self) -> None:
        """Let go of the model and of all that was kept."""
        self._plan = self._last = self._found = self._first = None
        for store in self._stores.values():
            store.clear()

    # How a plan is made.

    def _search(self) -> None:
        """Find where the model can be cut, as it is now."""
        self._is_searched = True
        model = self._model
        trained = {id(v) for v in model.trainable_variables}
        found = find(model, Setting(trained, self._inference))
        if isinstance(found, str):
            self._leave_whole(found)
        elif self._is_worth_it(found):
            self._found = found
        elif self._epochs_left() == 1 or self._is_small:
            self._leave_whole("")  # nothing comes again; or it has been said
        else:
            self._is_small = True
            ends = f"; it ends there since {found.ended_by}" if found.ended_by else ""
            self._leave_whole(
                f"the frozen part (up to {found.name}{ends}) takes too little of a step to be "
                "worth it. Pass PrefixCache(auto=False) to try"
            )

    def _is_worth_it(self, found: Frontier) -> bool:
        is_heavy = found.work >= LEAST_WORK and found.share >= LEAST_SHARE
        return (is_heavy and self._epochs_left() != 1) or not self._auto or self._inference

    def _make_plan(self, found: Frontier, state: tuple[Any, ...], x: Any) -> None:
        model = self._model
        variables = {id(v): v for layer in found.layers for v in layer.weights}
        order = {
            id(v): n
            for n, v in enumerate((*model.trainable_variables, *model.non_trainable_variables))
        }
        prefix = Prefix(model, found, training=not self._inference)
        positions = tuple(order[i] for i in variables)
        values = [[*state[0], *state[1]][n] for n in positions] if state else None
        plan = CutPlan(found, prefix, Watch(list(variables.values()), values), positions)
        last = self._last
        is_same = last is not None and _ids(last.frontier) == _ids(found)
        if last is not None and is_same and not last.watch.changed(values):
            plan.watch = last.watch
        else:
            self._clear()
        try:
            reason = self._trial(plan, state, x)
        except NotReachedError:
            reason = f"model {model.name!r} does not pass the batch itself to its frozen layers"
        except Exception as error:  # of the model's own code, which may expect other arguments
            reason = f"model {model.name!r} can't be called on a batch's inputs alone: {error}"
        if reason:
            self._leave_whole(reason)
            return
        self._plan, self._flags = plan, _flags(plan)
        if not is_same:
            self._announce(plan, x)

    def _leave_whole(self, reason: str) -> None:
        if self._inference and reason:
            raise ValueError(
                'PrefixCache(mode="inference") must be able to cut the model behind its frozen '
                f"layers. Received: model={self._model.name!r}, but {reason}. Leave out "
                'mode="inference".'
            )
        self._found = None
        self._clear()
        if reason:
            self._tell(f"cache: not used, since {reason}.")

    def _announce(self, plan: CutPlan, x: Any) -> None:
        found, store = plan.frontier, self._first[1] if self._first else []
        batch = _rows(x)
        row = sum(np.asarray(_host(t)).nbytes for t in store) / max(1, batch)
        samples = f"up to {self._steps * batch:,} samples" if self._steps else "samples"
        total = f", {readable_bytes(row * self._steps * batch)}" if self._steps else ""
        text = (
            f"cache: {samples} at {found.name}{total}; skips {int(100 * found.share)} % of the "
            "forward pass"
        )
        if found.ended_by:
            text += f". It ends there since {found.ended_by}"
        if self._inference:
            text += ". Frozen layers run as at inference: nothing is dropped in them"
        self._tell(f"{text}.")

    def _tell(self, text: str) -> None:
        if text != self._said:
            self._say(text)
        self._said = text

    # How a batch's features come about.

    def _looked_up(
        self, kind: Kind, plan: CutPlan, state: tuple[Any, ...], x: Any, keys: list[bytes]
    ) -> list[Any]:
        begun = time.perf_counter()
        this, store = self._passes[kind], self._stores[kind]
        hits = store.hits(keys)
        this.hits += hits
        rows = store.get(keys) if hits == len(keys) else None
        self.statistics.lookup_s += time.perf_counter() - begun
        if rows is not None:
            if self._is_audited or self._passes_audit(plan, state, x, rows):
                self._is_audited = True
                self.statistics.hits += len(keys)
                return [keras.ops.convert_to_tensor(row) for row in rows]
            self._stop(kind, "")
            if not self._inference:
                self._plan = self._found = None
        flat = self._computed(plan, state, x)
        if self._repeats[kind]:
            self._keep(kind, keys, flat)
            self._judge(kind)
        return flat

    def _computed(self, plan: CutPlan, state: tuple[Any, ...], x: Any) -> list[Any]:
        count = _rows(x)
        self.statistics.misses += count
        if self._first is not None and self._first[0] is x:
            flat, self._first = self._first[1], None
            return flat
        begun = time.perf_counter()
        flat = plan.prefix(x, state)
        for tensor in flat:
            _host(tensor[:1])  # waits for the result, where the backend doesn't
        self.statistics.compute_s += time.perf_counter() - begun
        self.statistics.computed += count
        return flat

    def _keep(self, kind: Kind, keys: Sequence[bytes], flat: Sequence[Any]) -> None:
        begun = time.perf_counter()
        try:
            self._stores[kind].put(keys, [_host(tensor) for tensor in flat])
        except OSError as error:
            self._stop(kind, "")
            warnings.warn(
                f"PrefixCache: training goes on uncached, since features can't be written: {error}."
                " Free some space, or pass another directory= or a larger max_bytes=.",
                stacklevel=2,
            )
        total = sum(store.nbytes for store in self._stores.values())
        self.statistics.nbytes = max(self.statistics.nbytes, total)
        self.statistics.lookup_s += time.perf_counter() - begun

    def _judge(self, kind: Kind) -> None:
        """Stop keeping samples if those of an earlier epoch do not come again."""
        this = self._passes[kind]
        # An evaluation on other data, by some other callback, doesn't mean that those of
        # validation won't come again.
        enough = max(1, (self._steps or 16) // 4) if kind == "train" else 1
        passes = 1 if kind == "train" else 4
        if this.earlier >= passes and this.batches >= enough and this.hits == 0:
            self._stop(kind, "no sample of the epoch before has come again (random augmentation?)")

    def _stop(self, kind: Kind, reason: str) -> None:
        self._repeats[kind] = False
        self._stores[kind].clear()
        if reason:
            what = "training" if kind == "train" else "validation"
            self._tell(f"cache: {what} goes on without, since {reason}.")

    def _clear(self) -> None:
        for kind, store in self._stores.items():
            store.clear()
            this = self._passes[kind]
            self._passes[kind] = _Pass(batches=this.batches, is_whole=this.batches == 0)

    # What must hold.

    def _trial(self, plan: CutPlan, state: tuple[Any, ...], x: Any) -> str:
        """Compute a batch and some of its rows alone, before anything is looked up."""
        batch = _rows(x)
        flat = plan.prefix(x, state)
        if any(tensor.shape[0] != batch for tensor in flat):
            return f"{plan.frontier.name} returns something else than a row for each sample"
        if not self._agree(plan, state, x, flat):
            return (
                f"the output of {plan.frontier.name} for a sample depends on the samples beside "
                "it, or on chance"
            )
        self._first = x, flat
        return ""

    def _passes_audit(
        self, plan: CutPlan, state: tuple[Any, ...], x: Any, rows: Sequence[Any]
    ) -> bool:
        if self._agree(plan, state, x, rows):
            return True
        warnings.warn(
            f"PrefixCache: the output of {plan.frontier.name} for a sample is not what it was in "
            "an earlier epoch, so training goes on uncached. Epochs since then may have trained on "
            "outdated features. Please report the model: its layers were taken for deterministic.",
            stacklevel=2,
        )
        return False

    def _agree(self, plan: CutPlan, state: tuple[Any, ...], x: Any, flat: Sequence[Any]) -> bool:
        batch = _rows(x)
        picked = list(range(batch))[::-1][: max(1, min(AUDITED, batch - 1))]

        def pick(leaf: Any) -> Any:
            return None if leaf is None else keras.ops.take(leaf, picked, axis=0)

        few = keras.tree.map_structure(pick, x)
        again = plan.prefix(few, state)
        return all(
            _is_close(_host(new), _host(old)[picked]) for new, old in zip(again, flat, strict=True)
        )

    def _has_its_weights(self, plan: CutPlan, state: tuple[Any, ...], thorough: bool) -> bool:
        """Empty the cache if weights have changed; tell whether it is still to be used."""
        values = plan.values(state)
        changed = plan.watch.changed(values, thorough)
        if not changed:
            return True
        self._changes += 1
        name = plan.watch.variables[changed[0]].path
        plan.watch = Watch(plan.watch.variables, values)
        self._clear()
        self._first = None
        if self._changes > MOST_CHANGES and not self._inference:
            self._plan = self._found = None
            self._tell(f"cache: not used any more, since weights keep changing ({name}).")
            return False
        self._tell(f"cache: emptied, since weights before the cut have changed ({name}).")
        return True


def _unsupported(model: keras.Model) -> str:
    """Say why a model's steps can't be wrapped at all; "" if they can."""
    if model.steps_per_execution > 1:
        return "a step makes several batches (steps_per_execution)"
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        return "the model is spread over several devices"
    if keras.distribution.distribution() is not None:
        return "the model is spread over several devices"
    if keras.backend.backend() == "torch" and model.jit_compile:
        return "torch.compile makes one function of the whole step"
    return ""


def _flags(plan: CutPlan) -> tuple[bool, ...]:
    layers = tuple(layer.trainable for layer in plan.frontier.layers)
    return layers + tuple(variable.trainable for variable in plan.watch.variables)


def _rows(x: Any) -> int:
    return next(len(leaf) for leaf in keras.tree.flatten(x) if leaf is not None)


def _ids(frontier: Frontier) -> list[int]:
    whole = [id(layer) for layer in frontier.layers] if frontier.children else []
    return whole + [id(tensor) for cut in frontier.cuts for tensor in cut.kept]


def _host(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def _is_close(new: np.ndarray, old: np.ndarray) -> bool:
    """Tell whether two results of the same computation agree, up to the order of sums."""
    if new.shape != old.shape:
        return False
    dtype = keras.backend.standardize_dtype(new.dtype)
    if not keras.backend.is_float_dtype(dtype):
        return bool((new == old).all())
    bits = {"float64": 52, "float32": 23, "float16": 10}.get(dtype, 7)
    left, right = new.astype("float64"), old.astype("float64")
    scale = float(np.max(np.abs(right), initial=0.0))
    tolerance = scale * min(0.05, 1000 * 2.0**-bits)
    return bool(np.allclose(left, right, rtol=0.0, atol=tolerance, equal_nan=True))
