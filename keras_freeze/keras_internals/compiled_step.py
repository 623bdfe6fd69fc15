"""A training step of JAX, compiled without data, and what its compiler says of the memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from keras_freeze.keras_internals.graph import functional_graph
from keras_freeze.keras_internals.optimizers import inner_optimizers, memento
from keras_freeze.keras_internals.required import require
from keras_freeze.keras_internals.trainer import compiled_memento


def compiled_memory(model: keras.Model, batch_size: int) -> tuple[int, int, int, int]:
    """Return the bytes of a compiled step's arguments, outputs, what these share, and the rest.

    Args:
        model: `keras.Model`, compiled, with a graph.
        batch_size: Int, samples in a batch.

    Raises:
        ValueError: if the shapes of inputs are not known.
    """
    import jax

    require("compile a step", "keras", model, "_symbolic_build")
    data = _batch(model, batch_size)
    undo = [memento(optimizer) for optimizer in _every(model.optimizer)]
    undo.append(compiled_memento(model))
    try:
        model._symbolic_build(data_batch=data)
        parts = (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
        state = tuple(
            [jax.ShapeDtypeStruct(v.value.shape, v.value.dtype) for v in part] for part in parts
        )

        def step(state: Any, data: Any) -> Any:  # under another name: JAX keeps what it traced
            return model.train_step(state, data)

        compiled = jax.jit(step, donate_argnums=0).lower(state, data).compile()
    finally:
        for restore in undo:
            restore()
    found = compiled.memory_analysis()
    return (
        int(found.argument_size_in_bytes),
        int(found.output_size_in_bytes),
        int(found.alias_size_in_bytes),
        int(found.temp_size_in_bytes),
    )


def _every(optimizer: Any) -> Iterator[Any]:
    yield optimizer
    for inner in inner_optimizers(optimizer):
        yield from _every(inner)


def _batch(model: keras.Model, batch_size: int) -> tuple[Any, Any]:
    """Return the shapes of inputs and of targets, these by the outputs and the loss of each."""
    import jax

    graph = functional_graph(model)
    if graph is None:
        raise ValueError("it has no graph, so that the shape of its input is not known")
    require("read a model's graph", "keras", graph, "_inputs_struct", "_outputs_struct")

    def of_batch(tensor: Any, sparse: bool = False) -> Any:
        shape = (batch_size, *tensor.shape[1:])
        if None in shape:
            raise ValueError(f"the shape {tuple(tensor.shape)} varies")
        if sparse:
            return jax.ShapeDtypeStruct(shape[:-1], "int32")
        return jax.ShapeDtypeStruct(shape, tensor.dtype)

    x = keras.tree.map_structure(of_batch, graph._inputs_struct)
    outputs = graph._outputs_struct
    losses = model.loss
    if not isinstance(losses, (dict, list, tuple)):
        y = keras.tree.map_structure(lambda tensor: of_batch(tensor, _is_sparse(losses)), outputs)
    elif isinstance(losses, dict):
        names = list(outputs) if isinstance(outputs, dict) else model.output_names
        flat = dict(zip(names, keras.tree.flatten(outputs), strict=True))
        y = {name: of_batch(flat[name], _is_sparse(loss)) for name, loss in losses.items()}
    else:
        flat = keras.tree.flatten(outputs)
        y = [of_batch(tensor, _is_sparse(one)) for tensor, one in zip(flat, losses, strict=True)]
    return x, y


def _is_sparse(loss: Any) -> bool:
    """Tell whether a loss takes the numbers of classes."""
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return "sparse" in name.lower()
