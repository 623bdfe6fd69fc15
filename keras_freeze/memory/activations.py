"""Walk through a model's graph as a training step does, and add up what it keeps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any

import keras

from keras_freeze.checks import first_few
from keras_freeze.keras_internals.graph import graph_nodes, inputs_of_call, walked_graph
from keras_freeze.keras_internals.own_code import replaced_methods
from keras_freeze.memory.backward_rules import (
    Kept,
    Setting,
    Site,
    Size,
    compute_bytes,
    is_view,
    item_bytes,
    kept_by,
    stops_gradients,
)
from keras_freeze.model_picture import nested_model, weights_of_operation

#: What a training step does around the call of the model, which may call it again.
_STEP_CODE = frozenset({"compute_loss", "stateless_compute_loss", "train_step"})


@dataclasses.dataclass(frozen=True)
class NotKnown:
    """Why a number is not known.

    Attributes:
        reason: Str, as it follows "activations are not known: ".
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Activations:
    """What the forward and backward pass of one step hold beside weights and their gradients.

    Attributes:
        kept_bytes: Int, what the forward pass keeps for the backward pass.
        peak_bytes: Int, the most at any moment: what is kept by then, and the inputs and outputs of
            the layer that is computed, or their gradients.
        served_peak_bytes: Int, the same where the calls in `served` are left out.
        lowest: Str or None, the name of the first layer that trains.
        doubts: Tuple of str, what is counted roughly, and how.
    """

    kept_bytes: int
    peak_bytes: int
    served_peak_bytes: int
    lowest: str | None
    doubts: tuple[str, ...]


def activations_of(
    model: keras.Model, batch_size: int, setting: Setting, served: Collection[int] = ()
) -> Activations | NotKnown:
    """Return what the activations of a training step take, or why that is not known.

    Args:
        model: `keras.Model`, built.
        batch_size: Int, samples in a batch.
        setting: What trains.
        served: Ids of calls whose outputs come from the prefix cache. Defaults to none.
    """
    graph = walked_graph(model)
    if graph is None:
        return NotKnown(f"model {model.name!r} runs code of its own when it is called")
    own = sorted(replaced_methods(model) & _STEP_CODE)
    if own:
        return NotKnown(f"model {model.name!r} has a {own[0]} of its own")
    for tensor in graph.inputs:
        if None in tensor.shape[1:]:
            what = "length" if len(tensor.shape) <= 3 else "size"
            return NotKnown(f"the {what} of the input varies, which has shape {tensor.shape}")
    walk = _Walk(setting, frozenset(served))
    given = [_batch(tensor, batch_size) for tensor in graph.inputs]
    try:
        for output in walk.through(graph, given, is_served=False):
            if output.live:  # the loss reads it
                walk.keep(output)
    except _NotKnownError as error:
        return NotKnown(str(error))
    return walk.result()


class _NotKnownError(Exception):
    """A call whose tensors are not known; the text says which."""


@dataclasses.dataclass(eq=False)
class _Memory:
    """What a tensor and those that are views of it are stored in.

    Attributes:
        is_batch: Bool, whether it is the data of the step, which are there anyway.
    """

    is_batch: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class _Tensor:
    """A tensor in a step.

    Attributes:
        size: `Size`.
        rows: Int, what stands for None in its shape.
        is_float: Bool.
        live: Bool, whether it depends on a weight that trains.
        memory: `_Memory`.
    """

    size: Size
    rows: int
    is_float: bool
    live: bool
    memory: _Memory


@dataclasses.dataclass(frozen=True)
class _Moment:
    """One call, as the walk passes it.

    Attributes:
        kept: Int, bytes kept by all calls up to it.
        beside: Int, bytes of its inputs and outputs that are not among these.
        gradients: Int, bytes of their gradients.
        is_served: Bool, whether the prefix cache takes its place.
    """

    kept: int
    beside: int
    gradients: int
    is_served: bool


class _Walk:
    """One pass through a model and those nested in it."""

    def __init__(self, setting: Setting, served: frozenset[int]) -> None:
        self.setting, self.served = setting, served
        self.kept: dict[tuple[int, int], int] = {}
        self.held: list[_Memory] = []  # alive, so that no two of them have the same id
        self.total = 0
        self.moments: list[_Moment] = []
        self.lowest: str | None = None
        self.doubts: dict[tuple[str, str], list[str]] = {}  # names by class and how it is counted

    def result(self) -> Activations:
        peaks = []
        for left_out in (False, True):
            moments = [m for m in self.moments if not (left_out and m.is_served)]
            forward = [m.kept + m.beside for m in moments]
            backward = [m.kept + m.gradients for m in moments]
            peaks.append(max([self.total, *forward, *backward]))
        peak, served_peak = peaks
        doubts = []
        for (kind, how), names in self.doubts.items():
            verb = "is" if len(names) == 1 else "are"
            doubts.append(f"{kind} {first_few(names, 2)} {verb} counted {how}")
        return Activations(self.total, peak, served_peak, self.lowest, tuple(doubts))

    def through(self, graph: Any, given: Sequence[_Tensor], *, is_served: bool) -> list[_Tensor]:
        """Pass all calls of a graph, and return its outputs."""
        known = {id(tensor): value for tensor, value in zip(graph.inputs, given, strict=True)}
        for node in graph_nodes(graph):
            if node.is_input or not all(id(t) in known for t in node.input_tensors):
                continue
            inputs = [known[id(tensor)] for tensor in node.input_tensors]
            outputs = self._pass(node, inputs, is_served or id(node) in self.served)
            known.update(zip(map(id, node.output_tensors), outputs, strict=True))
        return [known[id(tensor)] for tensor in graph.outputs]

    def keep(self, tensor: _Tensor, itemsize: int | None = None) -> None:
        """Keep a tensor until the backward pass, once; in another dtype if it is copied to that."""
        itemsize = itemsize or tensor.size.item_bytes
        if tensor.memory.is_batch and itemsize == tensor.size.item_bytes:
            return
        key = id(tensor.memory), itemsize
        if key not in self.kept:
            self.held.append(tensor.memory)
            self.kept[key] = tensor.size.elements * itemsize
            self.total += self.kept[key]

    def _pass(self, node: Any, inputs: list[_Tensor], is_served: bool) -> list[_Tensor]:
        operation = node.operation
        inner = nested_model(operation) if isinstance(operation, keras.Layer) else None
        if inner is not None:
            return self._open(node, inner, inputs, is_served)
        trains = self.setting.trains(weights_of_operation(operation))
        if trains and self.lowest is None:
            self.lowest = operation.name
        live = (trains or any(t.live for t in inputs)) and not stops_gradients(operation)
        outputs = [_made(tensor, inputs, live, operation) for tensor in node.output_tensors]
        if is_view(operation):
            outputs = [dataclasses.replace(t, memory=inputs[0].memory) for t in outputs]
        elif live:
            self._keep_for(operation, inputs, outputs)
        self._note(inputs, outputs, is_served)
        return outputs

    def _open(
        self, node: Any, inner: keras.Model, inputs: list[_Tensor], is_served: bool
    ) -> list[_Tensor]:
        """Pass the calls of a nested model."""
        graph = walked_graph(inner)
        if graph is None:
            raise _NotKnownError(f"model {inner.name!r} runs code of its own when it is called")
        given = inputs_of_call(node, graph)
        order = dict(zip(map(id, node.input_tensors), inputs, strict=True))
        if given is not None:
            inputs = [order[id(tensor)] for tensor in given]
        if len(inputs) != len(graph.inputs):
            raise _NotKnownError(f"model {inner.name!r} is called with masks or without inputs")
        if not isinstance(node.operation, keras.layers.TimeDistributed):
            return self.through(graph, inputs, is_served=is_served)
        merged = [_merged(tensor) for tensor in inputs]  # each time step is a sample
        outputs = self.through(graph, merged, is_served=is_served)
        return [
            dataclasses.replace(_made(t, inputs, o.live, inner), memory=o.memory)
            for t, o in zip(node.output_tensors, outputs, strict=True)
        ]

    def _keep_for(
        self, operation: Any, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor]
    ) -> None:
        kept = _kept(operation, inputs, outputs[0], self.setting)
        for n in kept.inputs:
            of_call = compute_bytes(operation, inputs[n].size.item_bytes)
            self.keep(inputs[n], of_call if inputs[n].is_float else None)
        if kept.output:
            self.keep(outputs[0])
        self.total += kept.extra
        if kept.doubt:
            key = type(operation).__name__, kept.doubt
            self.doubts.setdefault(key, []).append(repr(operation.name))

    def _note(self, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor], is_served: bool) -> None:
        tensors = {id(t.memory): t for t in (*inputs, *outputs) if not t.memory.is_batch}
        beside = gradients = 0
        for tensor in tensors.values():
            if (id(tensor.memory), tensor.size.item_bytes) not in self.kept:
                beside += tensor.size.nbytes
            gradients += tensor.size.nbytes if tensor.live else 0
        self.moments.append(_Moment(self.total, beside, gradients, is_served))


def _kept(operation: Any, inputs: Sequence[_Tensor], output: _Tensor, setting: Setting) -> Kept:
    sizes = tuple(tensor.size for tensor in inputs)
    return kept_by(Site(operation, sizes, output.size, tuple(t.live for t in inputs), setting))


def _batch(tensor: Any, batch_size: int) -> _Tensor:
    shape = (batch_size, *tensor.shape[1:])
    size, is_float = Size(shape, item_bytes(tensor.dtype)), _is_float(tensor)
    return _Tensor(size, batch_size, is_float, live=False, memory=_Memory(is_batch=True))


def _made(tensor: Any, inputs: Sequence[_Tensor], live: bool, operation: Any) -> _Tensor:
    """Return what a call makes of its inputs."""
    shape, rows = tuple(tensor.shape), inputs[0].rows
    if shape.count(None) > 1:
        kind = type(operation).__name__
        raise _NotKnownError(
            f"the output of {kind} {operation.name!r} has shape {shape}, which varies"
        )
    if shape.count(None) == 1 and is_view(operation):  # samples may be joined with time steps
        others = math.prod(n for n in shape if n is not None)
        rows = inputs[0].size.elements // max(1, others)
    size = Size(tuple(rows if n is None else n for n in shape), item_bytes(tensor.dtype))
    is_float = _is_float(tensor)
    return _Tensor(size, rows, is_float, live=live and is_float, memory=_Memory())


def _merged(tensor: _Tensor) -> _Tensor:
    samples = math.prod(tensor.size.shape[:2])
    size = dataclasses.replace(tensor.size, shape=(samples, *tensor.size.shape[2:]))
    return dataclasses.replace(tensor, size=size, rows=samples)


def _is_float(tensor: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(tensor.dtype)
