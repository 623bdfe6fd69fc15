"""Which layers before a cut may compute in bfloat16: those behind what first multiplies its input.

Inputs may be ids, years or pixels, which 8 significant bits would change to others before they are
looked up, normalized or compared. What multiplies them makes features of them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

import keras

from keras_freeze.cuts import Frontier, GraphCut
from keras_freeze.keras_internals.graph import graph_nodes, inputs_of_call, walked_graph
from keras_freeze.model_picture import every_layer

# Layers that multiply their input by weights, or look rows up without rounding their ids.
_MULTIPLY = frozenset(
    [
        "Conv1D",
        "Conv1DTranspose",
        "Conv2D",
        "Conv2DTranspose",
        "Conv3D",
        "Conv3DTranspose",
        "ConvLSTM1D",
        "ConvLSTM2D",
        "ConvLSTM3D",
        "Dense",
        "DepthwiseConv1D",
        "DepthwiseConv2D",
        "EinsumDense",
        "Embedding",
        "GRU",
        "GroupQueryAttention",
        "GroupedQueryAttention",
        "LSTM",
        "MultiHeadAttention",
        "RNN",
        "ReversibleEmbedding",
        "SeparableConv1D",
        "SeparableConv2D",
        "SimpleRNN",
    ]
)
# Those that do so with integers, and would round floats.
_LOOK_UP = frozenset({"TokenAndPositionEmbedding"})
_WRAP = frozenset({"Bidirectional", "TimeDistributed"})


def lowerable(frontier: Frontier) -> tuple[keras.Layer, ...]:
    """Return the layers before a cut that can compute in bfloat16, those inside others too."""
    walk = _Walk()
    walk.cut(frontier.cuts[0], frozenset())
    return tuple(layer for layer in walk.able if id(layer) not in walk.unable)


class _Walk:
    """Walks from the inputs on: values are features behind the first layer that multiplies."""

    def __init__(self) -> None:
        self.able: dict[keras.Layer, None] = {}
        self.unable: set[int] = set()

    def cut(self, cut: GraphCut, features: frozenset[int]) -> None:
        """Walk through the calls before a cut, and before those inside it."""
        known = set(features)
        for node in cut.before:
            inner = cut.inner.get(id(node))
            if inner is None:
                self._call(node, known)
            else:
                self.cut(inner, _given(node, inner.graph, known))
                self._record(node.operation, False, inside=False)
                known.update(_with_all(known, node))

    def _call(self, node: keras.Operation, known: set[int]) -> None:
        graph = walked_graph(node.operation)
        if graph is not None:
            inside = set(_given(node, graph, known))
            for call in graph_nodes(graph):
                self._call(call, inside)
            self._record(node.operation, False, inside=False)
            if all(id(tensor) in inside for tensor in graph.outputs):
                known.update(id(tensor) for tensor in node.output_tensors)
            return
        is_behind = bool(_with_all(known, node))
        multiplies = isinstance(node.operation, keras.Layer) and _multiplies(node)
        if isinstance(node.operation, keras.Layer):
            self._record(node.operation, is_behind or multiplies)
        if is_behind or multiplies:
            known.update(id(tensor) for tensor in node.output_tensors)

    def _record(self, layer: keras.Layer, is_able: bool, *, inside: bool = True) -> None:
        parts = every_layer(layer) if inside else [layer]
        is_able = is_able and not any(map(_is_exact, parts))
        for part in parts:
            if is_able and part.dtype_policy.name == "float32":
                self.able[part] = None
            else:
                self.unable.add(id(part))


def _given(node: keras.Operation, graph: object, known: set[int]) -> frozenset[int]:
    """Return which inputs of a nested graph are features."""
    given = inputs_of_call(node, graph)
    if given is None:
        return frozenset()
    inputs: Iterable[keras.KerasTensor] = graph.inputs  # type: ignore[attr-defined]
    return frozenset(
        id(own) for own, outer in zip(inputs, given, strict=True) if id(outer) in known
    )


def _with_all(known: set[int], node: keras.Operation) -> set[int]:
    """Return the outputs of a call whose inputs are all known; none otherwise."""
    read = [id(tensor) for tensor in node.input_tensors]
    if not read or not known.issuperset(read):
        return set()
    return {id(tensor) for tensor in node.output_tensors}


def _multiplies(node: keras.Operation) -> bool:
    layer, name = node.operation, type(node.operation).__name__
    while name in _WRAP:
        layer = layer.layer if name == "TimeDistributed" else layer.forward_layer
        name = type(layer).__name__
    is_of_integers = not any(keras.backend.is_float_dtype(t.dtype) for t in node.input_tensors)
    return name in _MULTIPLY or (name in _LOOK_UP and is_of_integers)


def _is_exact(layer: keras.Layer) -> bool:
    """Tell whether a layer compares, or can't compute in bfloat16 (spectrograms)."""
    return isinstance(layer, keras.layers.Masking) or "preprocessing" in type(layer).__module__
