"""Gradients of a loss with respect to variables of a model or other tensors; nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

#: `(x, y, sample_weight, others) -> (gradients, others)`
GradientFunction = Callable[[Any, Any, Any, Sequence[Any]], tuple[list[Any], list[Any]]]


def loss_gradients(
    model: keras.Model, variables: Sequence[keras.Variable], scale: float = 1.0
) -> tuple[GradientFunction, list[Any]]:
    """Return a function that computes gradients of a model's loss on a batch, as in training.

    Args:
        model: `keras.Model`, compiled.
        variables: The variables of the gradients, whether they train or not.
        scale: Float, by which the loss is multiplied and gradients are divided again, so that those
            of float16 don't vanish. Defaults to 1.

    Returns:
        Tuple of the function and of what it takes as `others` in its first call: the values of all
        other variables. It returns those for the next call, with the states of random generators
        moved on. A gradient is None where the loss does not depend on the variable.
    """
    chosen = {id(variable) for variable in variables}
    every = {id(v): v for v in [*model.variables, *model.metrics_variables]}
    rest = [variable for i, variable in every.items() if i not in chosen]
    penalties = [
        (n, v.regularizer)
        for n, v in enumerate(variables)
        if v.regularizer is not None and not v.trainable
    ]

    def loss_of(values: Sequence[Any], others: Sequence[Any], x: Any, y: Any, weight: Any) -> Any:
        mapping = [*zip(variables, values, strict=True), *zip(rest, others, strict=True)]
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            predicted = model(x, training=True)
            loss = model.compute_loss(
                x=x, y=y, y_pred=predicted, sample_weight=weight, training=True
            )
            # Keras adds those of what trains.
            loss += sum(regularizer(values[n]) for n, regularizer in penalties)
        present = [scope.get_current_value(variable) for variable in rest]
        moved = [old if new is None else new for new, old in zip(present, others, strict=True)]
        return keras.ops.cast(loss, "float32") * scale, moved

    gradients = gradient_of(loss_of, traced=not model.run_eagerly)

    def of_batch(x: Any, y: Any, weight: Any, others: Sequence[Any]) -> Any:
        values = [keras.ops.convert_to_tensor(variable.value) for variable in variables]
        found, moved = gradients(values, list(others), x, y, weight)
        unscaled = [None if g is None else keras.ops.cast(g, "float32") / scale for g in found]
        return unscaled, moved

    return of_batch, [keras.ops.convert_to_tensor(variable.value) for variable in rest]


def gradient_of(loss_of: Callable[..., tuple[Any, Any]], *, traced: bool) -> Callable[..., Any]:
    """Return a function that computes the gradients of a loss with respect to some tensors.

    Args:
        loss_of: A pure function `(values, *args) -> (loss, others)`: a list of tensors and whatever
            it needs beside, all nests of tensors; `others` is a nest of tensors too.
        traced: Bool, whether it is compiled on TensorFlow and JAX. That takes seconds, and pays
            where it is called often.

    Returns:
        Function `(values, *args) -> (gradients, others)`. On TensorFlow and torch, a gradient is
        None where the loss does not depend on the tensor.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        both = jax.value_and_grad(loss_of, has_aux=True)
        made = jax.jit(both) if traced else both

        def on_jax(values: Any, *args: Any) -> Any:
            (_, others), gradients = made(values, *args)
            return gradients, others

        return on_jax
    if backend == "torch":
        return lambda values, *args: _on_torch(loss_of, values, args)
    import tensorflow as tf

    def on_tensorflow(values: Any, *args: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss, others = loss_of(values, *args)
        gradients = tape.gradient(loss, values)
        dense = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
        return dense, others

    if not traced:
        return on_tensorflow
    return tf.function(on_tensorflow, reduce_retracing=True, autograph=False)


def _on_torch(loss_of: Callable[..., Any], values: Any, args: tuple[Any, ...]) -> Any:
    import torch

    def detached(value: Any) -> Any:
        return value.detach() if isinstance(value, torch.Tensor) else value

    leaves = [value.detach().clone().requires_grad_(True) for value in values]
    with torch.enable_grad():
        loss, others = loss_of(leaves, *keras.tree.map_structure(detached, args))
    if not loss.requires_grad:
        return [None] * len(leaves), keras.tree.map_structure(detached, others)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return list(gradients), keras.tree.map_structure(detached, others)
