"""Compile the first half of a cut model, and hand its output to the second.

What crosses the cut is passed on as a flat list of tensors: the values that are kept, each
followed by its mask if it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_freeze.prefix_cache.frontier import Frontier
from keras_freeze.prefix_cache.layer_calls import Call
from keras_freeze.prefix_cache.replay import Features, features_of


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
        self._masked: list[list[bool]] = []
        self._shapes: list[tuple[tuple[int | None, ...], Any]] = []
        self._function: Callable[..., Sequence[Any]] | None = None

    def __call__(self, x: Any, state: tuple[Any, ...] = ()) -> list[Any]:
        """Compute the tensors that cross the cut for a batch.

        Args:
            x: The batch's inputs.
            state: What JAX's trainer passes into a step; its first two elements are the values
                of the variables that train and that don't.
        """
        if self._function is None:
            self._function = self._compiled(x)
        backend = keras.backend.backend()
        if backend == "jax":
            return list(self._function(state[0], state[1], x))
        return list(self._function(x))

    def pack(self, flat: Sequence[Any]) -> Features:
        """Return flat tensors as `replaying` takes them."""
        rest = iter(flat)
        return [
            [(next(rest), next(rest) if masked else None) for masked in own] for own in self._masked
        ]

    def specs(self, flat: Sequence[Any]) -> list[Any]:
        """Return the shapes and dtypes of flat tensors that TensorFlow has to expect.

        They are those of the graph where there is one, so that batches may differ in length.
        """
        import tensorflow as tf

        if self.frontier.children:
            return [tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype) for tensor in flat]
        return [tf.TensorSpec(shape, dtype) for shape, dtype in self._shapes]

    def _flat(self, x: Any) -> list[Any]:
        features, self.calls = features_of(self.model, self.frontier, x, self.training)
        self._masked = [[mask is not None for _, mask in own] for own in features]
        kept = [() for _ in self.calls] + [cut.kept for cut in self.frontier.cuts]
        self._shapes = []
        flat = []
        for tensors, own in zip(kept, features, strict=True):
            for n, (value, mask) in enumerate(own):
                shape = tensors[n].shape if tensors else value.shape
                self._shapes.append(((None, *shape[1:]), value.dtype))
                flat.append(value)
                if mask is not None:
                    self._shapes.append(((None,) * len(mask.shape), mask.dtype))
                    flat.append(mask)
        return flat

    def _compiled(self, x: Any) -> Callable[..., Sequence[Any]]:
        backend = keras.backend.backend()
        if backend == "jax":
            return self._on_jax()
        if backend == "torch":
            import torch

            return torch.no_grad()(self._flat)
        if self.model.run_eagerly:
            return self._flat
        import tensorflow as tf

        jit_compile = self.model.jit_compile
        function = tf.function(
            self._flat, reduce_retracing=True, jit_compile=jit_compile, autograph=False
        )

        # Traced for any number of samples at once, not for one number and then again for any.
        def any_rows(leaf: Any) -> Any:
            return None if leaf is None else tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype)

        function.get_concrete_function(keras.tree.map_structure(any_rows, x))
        return function

    def _on_jax(self) -> Callable[..., Sequence[Any]]:
        import jax

        model = self.model
        variables = [*model.trainable_variables, *model.non_trainable_variables]

        def function(trainable: Sequence[Any], others: Sequence[Any], x: Any) -> list[Any]:
            values = zip(variables, [*trainable, *others], strict=True)
            with keras.StatelessScope(state_mapping=list(values)):
                return self._flat(x)

        return function if model.run_eagerly else jax.jit(function)
