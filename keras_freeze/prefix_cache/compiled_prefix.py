"""Compile the first half of a cut model, and hand its output to the second.

What crosses the cut is passed on as a flat list of tensors: the values that are kept, each
followed by its mask if it has one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import keras

from keras_freeze.cuts import Frontier
from keras_freeze.keras_internals.random_state import is_generator
from keras_freeze.prefix_cache.batches import Batch, of_any_size
from keras_freeze.prefix_cache.graph_replay import Features, features_of
from keras_freeze.prefix_cache.replicas import on_replicas


@dataclasses.dataclass(frozen=True)
class Start:
    """Tensors with known values before a cut.

    Attributes:
        tensors: Symbolic tensors of the model's graph.
        masked: Bool for each, whether its mask follows it.
        shapes: Shapes without the batch's size, and dtypes, of all of them.
    """

    tensors: tuple[Any, ...] = ()
    masked: tuple[bool, ...] = ()
    shapes: tuple[tuple[Any, Any], ...] = ()

    def known(self, flat: Sequence[Any]) -> dict[int, tuple[Any, Any]]:
        """Return values and masks by the ids of the tensors."""
        (pairs,) = _packed([self.masked], flat)
        return {id(t): pair for t, pair in zip(self.tensors, pairs, strict=True)}


class Prefix:
    """The frozen part of a model up to a cut, as a compiled function of a batch.

    Args:
        model: `keras.Model`, compiled.
        frontier: Where it is cut.
        training: Bool, how the model is called.
        start: From where on it is computed. Defaults to the model's inputs.
        lowered: Layers that are computed in bfloat16 and would be in float32. Defaults to none.
    """

    def __init__(
        self,
        model: keras.Model,
        frontier: Frontier,
        training: bool,
        start: Start | None = None,
        lowered: Sequence[keras.Layer] = (),
    ) -> None:
        self.start = start or Start()
        self.model = model
        self.frontier = frontier
        self.training = training
        self.lowered = tuple(lowered)
        #: For each cut, whether each of its tensors has a mask; None before anything is computed.
        self.masked: list[list[bool]] | None = None
        self._calls = 0
        self._shapes: dict[Hashable, list[tuple[Any, Any]]] = {}
        self._functions: dict[Hashable, Callable[..., Any]] = {}

    def __call__(self, batch: Batch, features: Sequence[Any] = ()) -> list[Any]:
        """Compute the tensors that cross the cut for a batch.

        Args:
            batch: `Batch`.
            features: Values of the tensors that it starts from. Defaults to what was drawn.
        """
        given = list(features or batch.drawn)
        if self._is_traced and batch.replica_rows:
            if "replicas" not in self._functions:
                self._functions["replicas"] = on_replicas(self.model, self._flat)
            return self._functions["replicas"](batch.replica_rows, batch.x, given)
        if self._is_traced:
            return list(self._traced(batch)(batch.x, given))
        if None not in self._functions:
            self._functions[None] = self._made()
        self._calls += 1
        numbers = [self._calls] if batch.state else []
        return list(self._functions[None](*batch.state[:2], batch.x, given, *numbers))

    @property
    def _is_traced(self) -> bool:
        return keras.backend.backend() == "tensorflow" and not self.model.run_eagerly

    def is_of_one_size(self, batch: Batch) -> bool:
        """Tell whether such batches have a function that takes no other number of samples."""
        is_fixed = batch.promised_rows is not None or keras.backend.backend() == "jax"
        return is_fixed and not self.model.run_eagerly

    def is_to_be_traced(self, batch: Batch) -> bool:
        """Tell whether TensorFlow would have to trace a function for such batches."""
        return self._is_traced and self._expected(batch)[0] not in self._functions

    def without_tracing(self, batch: Batch) -> list[Any]:
        """Compute the same by one operation after the other."""
        return self._flat(batch.x, batch.drawn)

    def pack(self, flat: Sequence[Any]) -> Features:
        """Return flat tensors as `Replay` takes them, of the dtypes that the model has there."""
        kept = [cut.kept for cut in self.frontier.cuts]
        return [
            [(keras.ops.cast(x, t.dtype), mask) for (x, mask), t in zip(pairs, own, strict=True)]
            for pairs, own in zip(_packed(self.masked or [], flat), kept, strict=True)
        ]

    def specs(self, batch: Batch) -> list[Any]:
        """Return the shapes and dtypes that TensorFlow has to expect of what crosses the cut."""
        import tensorflow as tf

        return [tf.TensorSpec((batch.promised_rows, *s), d) for s, d in self.shapes(batch)]

    def shapes(self, batch: Batch) -> list[tuple[Any, Any]]:
        """Return shapes without the batch's size, and dtypes, of what crosses the cut.

        They hold what is known of all batches: TensorFlow orders sums and products by what it
        knows of shapes, so the second half has to be traced with the same knowledge as the whole
        model. Empty on other backends, which do not need them.
        """
        if not self._is_traced:
            return []
        key, _ = self._expected(batch)
        if key not in self._shapes:
            self._traced(batch)
        return self._shapes[key]

    def adopt(
        self, batch: Batch, masked: Sequence[bool], shapes: Sequence[tuple[Any, Any]]
    ) -> None:
        """Set the layout of what crosses the cut, so that nothing has to be computed to know it."""
        rest = iter(masked)
        self.masked = [[next(rest) for _ in cut.kept] for cut in self.frontier.cuts]
        if shapes:
            self._shapes[self._expected(batch)[0]] = list(shapes)

    def _flat(self, x: Any, given: Sequence[Any]) -> list[Any]:
        known = self.start.known(given)
        with _in_bfloat16(self.lowered):
            features = features_of(self.model, self.frontier, x, self.training, known)
        self.masked = [[mask is not None for _, mask in own] for own in features]
        pairs = [pair for own in features for pair in own]
        return [tensor for pair in pairs for tensor in pair if tensor is not None]

    def _made(self) -> Callable[..., Sequence[Any]]:
        backend = keras.backend.backend()
        if backend == "jax":
            return self._on_jax()
        if backend == "torch":
            import torch

            return torch.no_grad()(self._flat)
        return self._flat

    def _traced(self, batch: Batch) -> Callable[..., Sequence[Any]]:
        """Return the function that is traced for what is known of all batches.

        For batches of another size it is traced again, for any number of samples.
        """
        import tensorflow as tf

        key, shapes = self._expected(batch)
        if key not in self._functions:
            function = tf.function(
                self._flat,
                reduce_retracing=True,
                jit_compile=self.model.jit_compile,
                autograph=False,
            )
            rows = batch.promised_rows if batch.promised_rows == batch.rows else None
            given = [tf.TensorSpec((rows, *s), dtype) for s, dtype in self.start.shapes]
            traced = function.get_concrete_function(shapes, given)
            self._functions[key] = function
            self._shapes[key] = [(t.shape[1:], t.dtype) for t in traced.structured_outputs]
        return self._functions[key]

    def _expected(self, batch: Batch) -> tuple[Hashable, Any]:
        """Return the shapes that a batch's function is traced for, and the key it is kept under."""
        shapes = batch.x if batch.promised is None else batch.promised
        if batch.promised_rows != batch.rows:
            shapes = of_any_size(shapes)
        return None if batch.promised is None else tuple(keras.tree.flatten(shapes)), shapes

    def _on_jax(self) -> Callable[..., Sequence[Any]]:
        import jax

        model = self.model
        variables = [*model.trainable_variables, *model.non_trainable_variables]

        def function(
            trainable: Sequence[Any], others: Sequence[Any], x: Any, given: Sequence[Any], call: Any
        ) -> list[Any]:
            values = zip(variables, [*trainable, *others], strict=True)
            # A step that does not draw does not move the generators on either.
            moved = [(v, _moved(value, call) if is_generator(v) else value) for v, value in values]
            with keras.StatelessScope(state_mapping=moved):
                return self._flat(x, given)

        return function if model.run_eagerly else jax.jit(function)


@contextlib.contextmanager
def _in_bfloat16(layers: Sequence[keras.Layer]) -> Iterator[None]:
    """Let layers compute in bfloat16 what is called, or traced, inside; weights stay float32."""
    policies = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = "mixed_bfloat16"
        yield
    finally:
        for layer, policy in zip(layers, policies, strict=True):
            layer.dtype_policy = policy


# Numbers between the draws of two calls: more than one draws.
DRAWS = 2**12


def _moved(state: Any, calls: Any) -> Any:
    """Return the state that a random generator has some calls later."""
    shift = keras.ops.stack([0, calls * DRAWS])
    return state + keras.ops.cast(shift, state.dtype)


def _packed(masked: Sequence[Sequence[bool]], flat: Sequence[Any]) -> Features:
    if len(flat) != sum(1 + mask for own in masked for mask in own):
        raise ValueError(f"{len(flat)} tensors cross a cut that {masked} cross.")
    rest = iter(flat)
    return [[(next(rest), next(rest) if m else None) for m in own] for own in masked]
