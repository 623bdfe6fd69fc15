"""Put the cache into a model's training and validation steps while a fit runs.

Keras calls `train_function` and `test_function` once per batch. While a cache is installed these
are `Step`s: each takes the batch from the iterator, asks the cache for its features, and calls
Keras's own function, made of a step that replays the model from the features.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import keras

from keras_freeze.engine import state_of
from keras_freeze.keras_internals.attributes import own_attribute
from keras_freeze.keras_internals.callback_list import is_called_by
from keras_freeze.keras_internals.trainer import make_function
from keras_freeze.prefix_cache.batches import KINDS, Batch, Kind, of_any_size
from keras_freeze.prefix_cache.custom_step import StepCheck, broken_promise
from keras_freeze.prefix_cache.graph_replay import Replay
from keras_freeze.prefix_cache.iterators import Iterators
from keras_freeze.prefix_cache.planning import CutPlan
from keras_freeze.prefix_cache.replicas import (
    divided,
    has_replicas,
    joined,
    spec_of_all,
    spec_of_one,
)
from keras_freeze.prefix_cache.session import CacheRun

# A batch as the data give it, and as the cache looks at it.
_Read: TypeAlias = tuple[Any, Batch]

# How many batches a function is traced for at most, where each execution runs several.
MAX_UNROLLED = 16


class Step:
    """A model's `train_function` or `test_function`, with a cache.

    Args:
        model: `keras.Model`.
        kind: "train" or "test".
        make: Makes Keras's own function, also where there is one.
        run: The cache.
        iterators: Where the epoch's iterator is held.
        plain: Keras's own function, if there is one that is still valid.
    """

    def __init__(
        self,
        model: keras.Model,
        kind: Kind,
        make: Callable[..., Any],
        run: CacheRun,
        iterators: Iterators,
        plain: Any = None,
    ) -> None:
        self._model = model
        self._kind = kind
        self._make = make
        self._run = run
        self._iterators = iterators
        self.plain = plain
        self._fed: tuple[Any, Callable[..., Any]] | None = None
        self._cuts: list[tuple[Any, Callable[..., Any]]] = []
        self._stays_whole = False

    def __call__(self, *args: Any) -> Any:
        """Make one execution: `(iterator)`, on JAX `(state, iterator)`, on torch `(batches)`."""
        if self._stays_whole:
            return self.plain(*args)
        *rest, batches = args
        wants, ahead = self._run.wants(self._kind), self._iterators.ahead(batches)
        if not wants:
            self._cuts = []
            if not ahead:
                self._stays_whole = self._run.stays_whole(self._kind)
                return self._make_plain(rest)(*args)
        spec = getattr(batches, "element_spec", None)
        if spec is not None:
            self._iterators.hold(self._kind, batches)
        count, backend = self._model.steps_per_execution, keras.backend.backend()
        taken = [ahead.popleft() for _ in range(min(count, len(ahead)))]
        taken += self._read(batches, count - len(taken))
        if wants and spec is not None and self._run.look_ahead > 1:
            self._look_ahead(taken, ahead, batches)
        self._iterators.set_ahead(batches, ahead)
        if not taken and (self._kind == "test" or backend != "tensorflow"):
            raise StopIteration
        if not taken:
            return self._make_plain(rest)(*args)  # which counts an iteration at the end of the data
        at_once = 1 if backend == "jax" else MAX_UNROLLED
        for begin in range(0, len(taken), at_once):
            result = self._steps(rest, taken[begin : begin + at_once], spec, wants)
            rest = [result[1]] if backend == "jax" else []
        return result

    def _look_ahead(self, taken: list[_Read], ahead: Any, batches: Any) -> None:
        """Compute what is missing together with that of batches whose turn comes later."""
        if not taken or not self._run.lacks(taken[0][1]):
            return
        ahead.extend(self._read(batches, max(0, self._run.look_ahead - len(taken))))
        self._run.compute_together([batch for _, batch in (*taken, *ahead)])

    def _read(self, batches: Any, count: int) -> Iterator[_Read]:
        """Yield some more batches: what the step gets, and what the cache looks at."""
        spec = getattr(batches, "element_spec", None)
        promised = None if spec is None else _inputs(spec)
        is_divided = has_replicas(self._model)
        if is_divided:
            promised = spec_of_one(promised)
        if promised is not None and self._run.look_ahead > 1:
            promised = of_any_size(promised)  # one function for those that are computed together
        for data in itertools.islice(batches, count):
            x, is_long = _inputs(data), self._run.keeps_long
            x, replica_rows = joined(self._model, x) if is_divided else (x, ())
            batch = Batch(
                x, self._kind, promised=promised, is_kept_long=is_long, replica_rows=replica_rows
            )
            yield data, batch

    def _steps(self, state: list[Any], taken: list[_Read], spec: Any, wants: bool) -> Any:
        """Make the steps of some batches: one call if all are cut alike, else one for each."""
        if state:
            now = tuple(state[0])
            taken = [(data, dataclasses.replace(batch, state=now)) for data, batch in taken]
        found = [self._run.cut(batch) if wants else None for _, batch in taken]
        plans = {None if cut is None else id(cut[0]) for cut in found}
        is_one = len(plans) == 1 and None not in plans
        each = [(data, batch, cut) for (data, batch), cut in zip(taken, found, strict=True)]
        for group in [each] if is_one else [[one] for one in each]:
            result = self._call(state, group, spec)
        return result

    def _call(self, state: list[Any], group: list[Any], spec: Any) -> Any:
        data, batch, found = group[0]
        if found is None:
            return self._make_fed(state, spec)(*state, [data])
        step = self._make_cut(state, found[0], spec, batch, len(group))
        carried = [
            {"data": data, "features": self._as_data(batch, cut[1])} for data, batch, cut in group
        ]
        result = step(*state, carried)
        self._run.after(self._kind, result[1] if keras.backend.backend() == "jax" else ())
        return result

    def _as_data(self, batch: Batch, features: list[Any]) -> list[Any]:
        """Return features spread over devices as the batch is."""
        if not batch.replica_rows:
            return features
        spread: list[Any] = divided(self._model, features, batch.replica_rows)
        return spread

    def _make_plain(self, state: list[Any]) -> Any:
        if self.plain is None:
            self.plain = self._made(state)
        return self.plain

    def _make_fed(self, state: list[Any], spec: Any) -> Callable[..., Any]:
        """Return Keras's function as one of a batch, for those that have been taken."""
        if self._fed is None or self._fed[0] != spec:
            signature = None if spec is None else [spec]
            self._fed = spec, self._on_batches(self._make_plain(state), signature)
        return self._fed[1]

    def _make_cut(
        self, state: list[Any], plan: CutPlan, spec: Any, batch: Batch, count: int
    ) -> Callable[..., Any]:
        """Return Keras's function, of a step that replays the model, as one of some batches."""
        for (of_plan, *of), made in self._cuts:
            if of_plan is plan and of == [spec, count]:
                return made
        signature = None
        if spec is not None and not self._model.run_eagerly:
            features = plan.prefix.specs(batch)
            if batch.replica_rows:
                features = [spec_of_all(each, like=spec) for each in features]
            signature = [{"data": spec, "features": features}] * count
        made = self._cut(state, plan, signature)
        self._cuts = [cut for cut in self._cuts if cut[0][0] is plan]
        self._cuts.append(((plan, spec, count), made))
        return made

    def _cut(self, state: list[Any], plan: CutPlan, signature: Any) -> Callable[..., Any]:
        name, is_custom = f"{self._kind}_step", self._kind in self._run.custom_kinds
        own, replay = getattr(self._model, name), Replay(self._model, plan.frontier)

        def step(*args: Any) -> Any:
            *state, carried = args
            data, flat = carried["data"], carried["features"]
            x, features, check = _inputs(data), plan.prefix.pack(flat), None
            if is_custom:
                values = plan.values(tuple(*state))
                check = StepCheck(self._kind, x, plan.watch.variables, values)
            watching = contextlib.nullcontext() if check is None else check.watching()
            with watching, replay.of(x, features, check) as use:
                result = own(*state, data)
            if check is not None and not use.calls:
                raise broken_promise(self._kind, "does not call the model on the batch")
            return result

        with own_attribute(self._model, name, step):
            made = self._on_batches(self._made(state), signature)
        if keras.backend.backend() == "torch":  # where a step is looked up as it is made
            return own_attribute(self._model, name, step)(made)
        return made

    def _on_batches(self, made: Any, signature: Any) -> Callable[..., Any]:
        """Return Keras's function of an iterator as one of a list of batches."""

        def on_batches(*args: Any) -> Any:
            *state, taken = args
            return made(*state, taken if keras.backend.backend() == "torch" else iter(taken))

        if signature is None or self._model.run_eagerly:
            return on_batches
        import tensorflow as tf

        # Traced for the shapes that the data promise, as Keras does, not for those of the first
        # batch: Keras weights the losses of several outputs by a batch size if it is known then.
        return tf.function(on_batches, input_signature=[signature], autograph=False)

    def _made(self, state: list[Any]) -> Any:
        name = f"{self._kind}_function"
        present = getattr(self._model, name)
        make_function(self._model, self._kind, self._make, *state)
        made = getattr(self._model, name)
        setattr(self._model, name, present)
        return made


class Installation:
    """The cache in a model's steps, until it is removed.

    Args:
        model: `keras.Model`, in a fit, before its first step.
        run: The cache.
    """

    def __init__(self, model: keras.Model, run: CacheRun) -> None:
        self._model = model
        self._run = run
        self._iterators = Iterators()
        self._own = {kind: getattr(model, f"make_{kind}_function") for kind in KINDS}
        self._patches = contextlib.ExitStack()
        self._is_removed = False
        for kind, make in self._own.items():
            patch = own_attribute(model, f"make_{kind}_function", self._maker(kind))
            self._patches.enter_context(patch)
            present = getattr(model, f"{kind}_function")
            step = Step(model, kind, make, run, self._iterators, present)
            setattr(model, f"{kind}_function", None if present is None else step)
            if kind == "train":
                state_of(model).replace_function(present, step)

    def _maker(self, kind: Kind) -> Callable[..., None]:
        def make(force: bool = False) -> None:
            if kind == "train" and is_called_by("fit"):
                # Another fit begins: the fit of this cache has been interrupted.
                self.remove()
                self._model.make_train_function()
                return
            if kind == "train" and force:
                self._run.model_changed()
            if kind == "test" and is_called_by("evaluate"):
                self._run.begin("test")
            if force or getattr(self._model, f"{kind}_function") is None:
                step = Step(self._model, kind, self._own[kind], self._run, self._iterators)
                setattr(self._model, f"{kind}_function", step)

        return make

    def remove(self) -> None:
        """Leave the model as it would be without a cache; a second call does nothing."""
        if self._is_removed:
            return
        self._is_removed = True
        self._patches.close()
        self._run.end()
        for kind, make in self._own.items():
            step = getattr(self._model, f"{kind}_function")
            if isinstance(step, Step):  # else `compile` has removed it
                setattr(self._model, f"{kind}_function", step.plain)
                make()
                if kind == "train":
                    state_of(self._model).replace_function(step, self._model.train_function)


def _inputs(data: Any) -> Any:
    return keras.utils.unpack_x_y_sample_weight(data)[0]
