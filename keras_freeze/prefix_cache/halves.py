"""Compile the first half of a cut model, and hand its output to the second.

What crosses the cut is passed on as a flat list of tensors: the values that are kept, each
followed by its mask if it has one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import keras

from keras_freeze.prefix_cache.frontier import Frontier
from keras_freeze.prefix_cache.layer_calls import Call
from keras_freeze.prefix_cache.replay import Features, features_of
from keras_freeze.prefix_cache.samples import Batch


class Prefix:
    """The frozen part of a model up to a cut, as a compiled function of a batch.

    Args:
        model: `keras.Model`, compiled.
        frontier: Where it is cut.
        training: Bool, how the model is called.
    """

    def __init__(self, model: keras.Model, frontier: Frontier, training: bool) -> None:
        self.model = model
        self.frontier = frontier
        self.training = training
        self.calls: tuple[Call, ...] = ()
        #: Float, seconds of the first call, most of which it takes to trace a function.
        self.first_s = 0.0
        self._masked: list[list[bool]] = []
        self._shapes: dict[Hashable, list[tuple[Any, Any]]] = {}
        self._functions: dict[Hashable, Callable[..., Sequence[Any]]] = {}

    def __call__(self, batch: Batch) -> list[Any]:
        """Compute the tensors that cross the cut for a batch."""
        begun = time.perf_counter()
        flat = self._computed(batch)
        self.first_s = self.first_s or time.perf_counter() - begun
        return flat

    def is_of_one_size(self, batch: Batch) -> bool:
        """Tell whether such batches have a function that is for no other number of samples."""
        return batch.promised_rows is not None and not self.model.run_eagerly

    def _computed(self, batch: Batch) -> list[Any]:
        if keras.backend.backend() == "tensorflow" and not self.model.run_eagerly:
            return list(self._traced(batch)(batch.x))
        if None not in self._functions:
            self._functions[None] = self._made()
        return list(self._functions[None](*batch.state[:2], batch.x))

    def pack(self, flat: Sequence[Any]) -> Features:
        """Return flat tensors as `replaying` takes them."""
        rest = iter(flat)
        return [
            [(next(rest), next(rest) if masked else None) for masked in own] for own in self._masked
        ]

    def specs(self, batch: Batch) -> list[Any]:
        """Return the shapes and dtypes that TensorFlow has to expect of what crosses the cut.

        They are as much as is promised of the batches: TensorFlow orders sums and products by
        what it knows of shapes, so that the second half has to be traced for as much as the whole
        would be.
        """
        import tensorflow as tf

        key, _ = self._expected(batch)
        self._traced(batch)
        return [tf.TensorSpec((batch.promised_rows, *s), dtype) for s, dtype in self._shapes[key]]

    def _flat(self, x: Any) -> list[Any]:
        features, self.calls = features_of(self.model, self.frontier, x, self.training)
        self._masked = [[mask is not None for _, mask in own] for own in features]
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
        """Return TensorFlow's function for what its data promise of all batches.

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
            traced = function.get_concrete_function(shapes)
            self._functions[key] = function
            self._shapes[key] = [(t.shape[1:], t.dtype) for t in traced.structured_outputs]
        return self._functions[key]

    def _expected(self, batch: Batch) -> tuple[Hashable, Any]:
        """Return the shapes that a batch's function is traced for, and the key it is kept under."""
        import tensorflow as tf

        def any_rows(leaf: Any) -> Any:
            return None if leaf is None else tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype)

        shapes = batch.x if batch.promised is None else batch.promised
        if batch.promised_rows != batch.rows:
            shapes = keras.tree.map_structure(any_rows, shapes)
        return None if batch.promised is None else tuple(keras.tree.flatten(shapes)), shapes

    def _on_jax(self) -> Callable[..., Sequence[Any]]:
        import jax

        model = self.model
        variables = [*model.trainable_variables, *model.non_trainable_variables]

        def function(trainable: Sequence[Any], others: Sequence[Any], x: Any) -> list[Any]:
            values = zip(variables, [*trainable, *others], strict=True)
            with keras.StatelessScope(state_mapping=list(values)):
                return self._flat(x)

        return function if model.run_eagerly else jax.jit(function)
