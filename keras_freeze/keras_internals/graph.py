"""The graph of calls of a Functional or Sequential model, and the masks of tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras.src import backend  # which alone knows where a backend keeps masks

from keras_freeze.keras_internals.attributes import own_attribute
from keras_freeze.keras_internals.own_code import STEP_METHODS, replaced_methods
from keras_freeze.keras_internals.required import require

require("pass masks on", "keras", backend, "get_keras_mask", "set_keras_mask")

# A model to look at, with names of its own: Keras counts the names that it makes up.
_tensor = keras.Input((1,), name="probe")
_model = keras.Model(_tensor, _tensor, name="probe")
require(
    "read a model's graph",
    "keras",
    _model,
    "_nodes_by_depth",
    "_inputs_struct",
    "_outputs_struct",
    "_run_through_graph",
)
require("read a model's graph", "keras", _tensor, "_keras_history")


def functional_graph(model: keras.Model) -> Any | None:
    """Return the object that holds a model's graph of calls, or None if it has none.

    That is the model itself if it is Functional, and a built Sequential's inner Functional.
    """
    model = getattr(model, "_functional", None) or model
    return model if hasattr(model, "_nodes_by_depth") else None


def walked_graph(model: Any) -> Any | None:
    """Return a model's graph of calls if a call of the model is a walk through it, and no more.

    A class that derives from Functional or Sequential and has a `call` of its own may do
    something before, after or instead. Its train and test steps may be its own.
    """
    if isinstance(model, keras.Model) and replaced_methods(model) <= STEP_METHODS:
        return functional_graph(model)
    return None


def input_keys(graph: Any) -> dict[int, str]:
    """Return the keys by which a model takes its inputs from a dict, by the ids of its inputs."""
    struct = graph._inputs_struct
    if not isinstance(struct, Mapping):
        return {}
    return {id(tensor): str(key) for key, tensor in struct.items()}


def inputs_of_call(node: Any, graph: Any) -> tuple[Any, ...] | None:
    """Return the tensors that a call of a model gets, in the order of its inputs.

    Args:
        node: The call, in the graph of another model.
        graph: The object that holds the graph of the model that is called.

    Returns:
        Tuple of symbolic tensors, without masks; None where Keras orders them by name.
    """
    given, own = node.arguments.args, graph._inputs_struct
    if len(given) != 1 or isinstance(given[0], Mapping) != isinstance(own, Mapping):
        return None
    if isinstance(own, Mapping) and list(given[0]) != list(own):
        return None
    flat = keras.tree.flatten(given[0])
    is_plain = len(flat) == len(graph.inputs) and isinstance(own, (Mapping, list, tuple))
    is_plain |= len(flat) == len(graph.inputs) == 1
    is_plain &= all(isinstance(tensor, keras.KerasTensor) for tensor in flat)
    return tuple(flat) if is_plain else None


def graph_nodes(functional: Any) -> tuple[Any, ...]:
    """Return the calls of a Functional model (`operation`, tensors), from input to output."""
    by_depth = functional._nodes_by_depth
    return tuple(node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth])


@contextlib.contextmanager
def replaced_walk(
    graph: Any, walk: Callable[[Any, Callable[[Any], Any]], list[Any] | None]
) -> Iterator[None]:
    """Replace the walk through a graph that a call of its model makes.

    Args:
        graph: The object that holds the graph.
        walk: Gets the inputs and a function from an operation to what is called in its place, and
            returns the graph's outputs, flat; None leaves the call to Keras.
    """
    own = graph._run_through_graph

    def run(inputs: Any, operation_fn: Any = lambda op: op, call_fn: Any = None) -> Any:
        outputs = walk(inputs, operation_fn) if call_fn is None else None
        if outputs is None:
            return own(inputs, operation_fn=operation_fn, call_fn=call_fn)
        return keras.tree.pack_sequence_as(graph._outputs_struct, outputs)

    with own_attribute(graph, "_run_through_graph", run):
        yield


def output_rank(op: Any, node: Any | None = None) -> int | None:
    """Return the dimensions of what a layer returns, batch included; None where unknown.

    Outside a graph (`node=None`) it is the rank of the input the layer was built on, which
    is the same for the layers that are asked: normalisations and dense layers.
    """
    if node is not None:
        return len(node.output_tensors[0].shape)
    shapes = getattr(op, "_build_shapes_dict", None) or {}
    shape = next(iter(shapes.values()), None)
    return len(shape) if shape is not None and _is_shape(shape) else None


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(d is None or isinstance(d, int) for d in shape)


def shapes_when_built(layer: keras.Layer) -> tuple[tuple[int | None, ...], ...]:
    """Return the shapes of the inputs that a layer was built for; none where not known."""
    shapes = (getattr(layer, "_build_shapes_dict", None) or {}).values()
    return tuple(shape for shape in shapes if _is_shape(shape))


def origin_of(tensor: Any) -> Any:
    """Return the layer or operation that returned a symbolic tensor."""
    return tensor._keras_history[0]


def mask_of(value: Any) -> Any | None:
    """Return the mask that a layer has attached to a value, None if there is none."""
    return backend.get_keras_mask(value)


def with_mask(value: Any, mask: Any | None) -> Any:
    """Return a value with a mask attached to it."""
    if mask is not None:
        backend.set_keras_mask(value, mask)
    return value
