"""Gradients of a model's loss with respect to any of its variables; the model is left as it is."""

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

    gradients = _with_respect_to(loss_of, model)

    def of_batch(x: Any, y: Any, weight: Any, others: Sequence[Any]) -> Any:
        values = [keras.ops.convert_to_tensor(variable.value) for variable in variables]
        found, moved = gradients(values, list(others), x, y, weight)
        unscaled = [None if g is None else keras.ops.cast(g, "float32") / scale for g in found]
        return unscaled, moved

    return of_batch, [keras.ops.convert_to_tensor(variable.value) for variable in rest]


def _with_respect_to(loss_of: Callable[..., Any], model: keras.Model) -> Callable[..., Any]:
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        both = jax.value_and_grad(loss_of, has_aux=True)
        made = both if model.run_eagerly else jax.jit(both)

        def on_jax(*args: Any) -> Any:
            (_, moved), gradients = made(*args)
            return gradients, moved

        return on_jax
    if backend == "torch":
        return lambda *args: _on_torch(loss_of, *args)
    import tensorflow as tf

    def on_tensorflow(values: Any, others: Any, x: Any, y: Any, weight: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss, moved = loss_of(values, others, x, y, weight)
        gradients = tape.gradient(loss, values)
        dense = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
        return dense, moved

    if model.run_eagerly:
        return on_tensorflow
    return tf.function(on_tensorflow, reduce_retracing=True, autograph=False)


def _on_torch(
    loss_of: Callable[..., Any], values: Any, others: Any, x: Any, y: Any, weight: Any
) -> Any:
    import torch

    leaves = [value.detach().clone().requires_grad_(True) for value in values]
    with torch.enable_grad():
        loss, moved = loss_of(leaves, [other.detach() for other in others], x, y, weight)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return list(gradients), [other.detach() for other in moved]
