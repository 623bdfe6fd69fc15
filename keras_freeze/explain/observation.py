"""Watch one call of a model: which layers it calls, how often, and what they return."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import keras
import numpy as np

from keras_freeze.checks import ArgumentError, ArgumentTypeError, did_you_mean
from keras_freeze.explain.inputs import batches_of
from keras_freeze.keras_internals.attributes import own_attribute
from keras_freeze.keras_internals.graph import functional_graph, graph_nodes
from keras_freeze.keras_internals.layers import is_builtin
from keras_freeze.measures import infer, watched
from keras_freeze.model_picture import every_layer

#: Layers that call another one for each time step.
_LOOPS = (keras.layers.TimeDistributed, keras.layers.RNN)
_SQUASHING = (
    keras.activations.softmax,
    keras.activations.sigmoid,
    keras.ops.softmax,
    keras.ops.sigmoid,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Observation:
    """What one call of a model has shown.

    Attributes:
        model: `keras.Model`.
        samples: Int, the samples of the call.
        calls: Tuple of pairs, a layer or operation and what it returned, in the order in which
            calls ended.
        output: What the model returned.
    """

    model: keras.Model
    samples: int
    calls: tuple[tuple[Any, Any], ...]
    output: Any

    def times(self, layer: Any) -> int:
        """Return how often a layer was called."""
        return sum(called is layer for called, _ in self.calls)

    @property
    def last_operation(self) -> Any | None:
        """The innermost layer or operation that returned the output, if it is called once."""
        final = only_tensor(self.output)
        found = [called for called, output in self.calls if only_tensor(output) is final]
        if final is None or not found or self.times(found[0]) > 1:
            return None
        return found[0]


def observe(model: keras.Model, x: Any) -> Observation:
    """Call a model in inference on a sample, and return what was seen; nothing in it changes.

    Args:
        model: `keras.Model`, built.
        x: Inputs as `checked_inputs` returns them.
    """
    calls: list[tuple[Any, Any]] = []

    def see(layer: Any, output: Any) -> Any:
        calls.append((layer, output))
        return output

    batch, _ = next(batches_of(model, x, 1))
    with watched(_observable(model), see):
        output = infer(model, batch)
    return Observation(model, len(keras.tree.flatten(batch)[0]), tuple(calls), output)


def _observable(model: keras.Model) -> list[Any]:
    """Return the layers of a model that compute one output for a sample, and its operations."""
    layers = every_layer(model)
    graphs = [functional_graph(x) for x in layers if isinstance(x, keras.Model)]
    nodes = [node for graph in graphs if graph is not None for node in graph_nodes(graph)]
    operations = [node.operation for node in nodes if not isinstance(node.operation, keras.Layer)]
    loops = _in_loops(layers)
    found = {id(x): x for x in (*layers[1:], *operations) if id(x) not in loops}
    return list(found.values())


def _in_loops(layers: tuple[keras.Layer, ...]) -> set[int]:
    loops = [layer for layer in layers if isinstance(layer, _LOOPS)]
    return {id(inner) for loop in loops for inner in every_layer(loop)[1:]}


def find_layer(owner: str, model: keras.Model, layer: Any) -> keras.Layer:
    """Return a layer of a model by its name, at any depth, or the layer itself if it is there.

    Raises:
        TypeError: if it is neither.
        ValueError: if there is no such layer, if several have the name, or if a layer around it
            calls it for each time step.
    """
    layers = every_layer(model)
    below = layers[1:]
    names = [one.name for one in below]
    if isinstance(layer, keras.Layer):
        found = [one for one in below if one is layer]
        shown = f"the layer {layer.name!r} of another model"
    elif isinstance(layer, str):
        found = [one for one in below if one.name == layer]
        shown = repr(layer)
    else:
        raise ArgumentTypeError(owner, "layer", "be a layer or its name", value=layer)
    if not found:
        raise ArgumentError(
            owner,
            "layer",
            f"be a layer of model {model.name!r}",
            received=shown,
            advice=f"{did_you_mean(layer if isinstance(layer, str) else layer.name, names)}"
            f"Layers: {', '.join(dict.fromkeys(names))}.",
        )
    if len(found) > 1:
        raise ArgumentError(
            owner,
            "layer",
            f"be the name of one layer of model {model.name!r}",
            received=f"{shown}, the name of {len(found)}",
            advice="Pass the layer itself, such as model.get_layer(...).get_layer(...).",
        )
    if id(found[0]) in _in_loops(layers):
        raise ArgumentError(
            owner,
            "layer",
            "return one output for a sample",
            received=f"layer {found[0].name!r}, which is called for each time step",
            advice="Pass the layer around it.",
        )
    return found[0]


def output_in(owner: str, seen: Observation, layer: keras.Layer) -> Any:
    """Return the only tensor that a layer returned in the only call.

    Raises:
        ValueError: if it was called not once, or returned something else.
    """
    outputs = [output for called, output in seen.calls if called is layer]
    name = f"layer {layer.name!r}"
    if not outputs:
        what = "which is an input" if isinstance(layer, keras.layers.InputLayer) else "which is not"
        rule = f"be called when model {seen.model.name!r} is"
        raise ArgumentError(owner, "layer", rule, received=f"{name}, {what}")
    if len(outputs) > 1:
        raise ArgumentError(
            owner,
            "layer",
            "be called once in a forward pass, or it is not known which output is meant",
            received=f"{name}, which is called {len(outputs)} times",
            advice="Pass a layer before or after it.",
        )
    tensor = only_tensor(outputs[0])
    if tensor is None or not tensor.shape or tensor.shape[0] != seen.samples:
        leaves = keras.tree.flatten(outputs[0])
        shapes = ", ".join(str(tuple(getattr(leaf, "shape", ()))) for leaf in leaves)
        raise ArgumentError(
            owner,
            "layer",
            "return one array with a row for each sample",
            received=f"{name}, which returns {shapes} for {seen.samples} sample(s)",
        )
    return tensor


def only_tensor(output: Any) -> Any:
    """Return the one tensor of an output, None if there is none or another number."""
    leaves = keras.tree.flatten(output)
    is_one = len(leaves) == 1 and hasattr(leaves[0], "shape") and hasattr(leaves[0], "dtype")
    return leaves[0] if is_one else None


def is_float(tensor: Any) -> bool:
    """Tell whether a tensor holds floats."""
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype)))


def as_array(tensor: Any) -> np.ndarray:
    """Copy a tensor to the host, floats of any precision as float32."""
    if is_float(tensor):
        tensor = keras.ops.cast(tensor, "float32")
    return np.array(keras.ops.convert_to_numpy(tensor))


def before_squashing(operation: Any) -> contextlib.AbstractContextManager[None]:
    """Leave out the softmax or sigmoid that a layer of Keras's own ends in, within the block."""
    if operation is None or not is_builtin(operation):
        return contextlib.nullcontext()
    if type(operation).__name__ in ("Softmax", "Sigmoid"):
        return own_attribute(operation, "call", lambda inputs, *args, **kwargs: inputs)
    # That of a recurrent layer is its cell's, and a property.
    is_own = not isinstance(getattr(type(operation), "activation", None), property)
    activation = getattr(operation, "activation", None) if is_own else None
    squashes = any(activation is one for one in _SQUASHING)
    if squashes or isinstance(activation, keras.layers.Softmax):
        return own_attribute(operation, "activation", keras.activations.linear)
    return contextlib.nullcontext()
