"""Turn a model into one flat graph of layer calls, ordered from input to output.

Nesting disappears here: a nested backbone and the same backbone inlined give the same graph,
so whatever is planned on it can't depend on how a model was assembled. Weights are what the
package is about, so a call knows whether its layer brings weights, and whether its output
depends on any. Nothing here changes a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import keras

from keras_freeze.groups.strides import stride
from keras_freeze.keras_internals.graph import functional_graph, graph_nodes, output_rank
from keras_freeze.keras_internals.layers import sublayers
from keras_freeze.model_picture import nested_model, parts_of

Sources = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or operation.

    Attributes:
        layer: `keras.Layer` or None. What is called; None for an operation without a layer.
        inputs: Tuple of ints. The positions of the calls whose outputs this one reads.
        owns_weights: Bool. The layer has weights, and this is the first call to use them.
        carries_weights: Bool. The output depends on some weight. Padding masks, token ids
            and other weight-free functions of the inputs do not.
        rank: Int or None. Dimensions of the output, batch included; None where unknown.
        stride: Float. How much coarser the output is than the input, in steps of the input
            (2.0 after one strided convolution); 1.0 where there is nothing spatial.
        is_pooled: Bool. Space and time have been pooled away.
        is_output: Bool. The model returns this output.
    """

    layer: keras.Layer | None
    inputs: Sources
    owns_weights: bool
    carries_weights: bool
    rank: int | None
    stride: float
    is_pooled: bool = False
    is_output: bool = False


def call_graph(model: keras.Model) -> tuple[Call, ...]:
    """Return the calls of a model, nested models opened, in order from input to output.

    A call comes as late as its readers allow, so that a side branch stands next to the
    point where it joins; a branch that ends in an output of its own comes as early as it
    can. Calls of one layer at the same distance from the output (the two towers of a siamese
    model) are one call. A subclassed model has no graph: its layers form a chain, in the
    order in which they were created.

    Calls that reach no output are left out.

    Args:
        model: `keras.Model`. A built model.

    Returns:
        Tuple of `Call`; `Call.inputs` are positions in it.
    """
    flattening = _Flattening()
    outputs = _union(flattening.open(model, None))
    calls = [
        dataclasses.replace(call, is_output=i in outputs) for i, call in enumerate(flattening.calls)
    ]
    return tuple(_with_owners(_ordered(_merge_parallel_calls(calls))))


class _Flattening:
    """Collects the calls of nested models; the list grows in topological order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def open(self, model: keras.Model, sources: Sequence[Sources] | None) -> list[Sources]:
        """Add all calls of a model, and return for each output the calls that produce it."""
        functional = functional_graph(model)
        if functional is not None:
            return self._open_graph(functional, sources)
        return [self._open_chain(sublayers(model), _union(sources or ()))]

    def _open_chain(self, layers: Sequence[keras.Layer], last: Sources) -> Sources:
        for layer in layers:
            last = _union(self._apply(layer, [last], None)) or last
        return last

    def _open_graph(self, model: Any, sources: Sequence[Sources] | None) -> list[Sources]:
        produced: dict[int, Sources] = {}
        if sources is not None:
            if len(sources) != len(model.inputs):  # some optional inputs were left out
                sources = [_union(sources)] * len(model.inputs)
            for tensor, source in zip(model.inputs, sources, strict=True):
                produced[id(tensor)] = source
        for node in graph_nodes(model):
            if all(id(tensor) in produced for tensor in node.output_tensors):
                continue
            read = [produced.get(id(tensor), ()) for tensor in node.input_tensors]
            made = self._apply(node.operation, read, node)
            if len(made) != len(node.output_tensors):
                made = [_union(made)] * len(node.output_tensors)
            for tensor, source in zip(node.output_tensors, made, strict=True):
                produced[id(tensor)] = source
        return [produced[id(tensor)] for tensor in model.outputs]

    def _apply(self, op: Any, read: list[Sources], node: Any | None) -> list[Sources]:
        layer = op if isinstance(op, keras.Layer) else None
        inner = nested_model(layer) if layer is not None else None
        if inner is not None:
            return self.open(inner, read)
        parts = parts_of(layer) if layer is not None else ()
        if parts:
            return [self._open_chain(parts, _union(read))]
        weighted = layer is not None and bool(layer.weights)
        inputs = _union(read)
        carried = [self.calls[i] for i in inputs if self.calls[i].carries_weights]
        pools = type(op).__name__.startswith("Global")
        self.calls.append(
            Call(
                layer=layer,
                inputs=inputs,
                owns_weights=weighted,  # until `_with_owners` finds the first call
                carries_weights=weighted or bool(carried),
                rank=output_rank(op, node),
                stride=max((self.calls[i].stride for i in inputs), default=1.0) * stride(op, node),
                is_pooled=pools or (bool(carried) and all(call.is_pooled for call in carried)),
            )
        )
        return [(len(self.calls) - 1,)]


def _union(sources: Iterable[Sources]) -> Sources:
    return tuple(dict.fromkeys(i for source in sources for i in source))


def _merge_parallel_calls(calls: Sequence[Call]) -> list[Call]:
    """Merge the calls that share a layer and a distance to the output.

    Calls that reach no output are dropped: their weights take no part in anything.
    """
    merged = list(calls)
    depths = distances(calls, [i for i, call in enumerate(calls) if call.is_output])
    first: dict[object, int] = {}  # of the calls that are one, by what makes them one
    stands_for: dict[int, int] = {}
    for i, call in enumerate(calls):
        if depths[i] < 0:
            continue
        inputs = tuple(stands_for[j] for j in call.inputs)
        key: object = i
        if call.layer is not None:  # a shared activation is one call only on the same input
            key = (id(call.layer), depths[i], () if call.owns_weights else inputs)
        stands_for[i] = one = first.setdefault(key, i)
        if one == i:
            merged[i] = dataclasses.replace(call, inputs=inputs)
        else:
            merged[one] = dataclasses.replace(
                merged[one],
                inputs=merged[one].inputs + inputs,
                is_output=merged[one].is_output or call.is_output,
            )
    return _renumbered(merged, sorted(first.values(), key=lambda i: -depths[i]))


def _renumbered(calls: Sequence[Call], order: Sequence[int]) -> list[Call]:
    """Return some calls in another order, with their inputs as positions in it."""
    position = {old: new for new, old in enumerate(order)}
    renumbered = []
    for old in order:
        inputs = _union([tuple(position[i] for i in calls[old].inputs)])
        renumbered.append(dataclasses.replace(calls[old], inputs=inputs))
    return renumbered


def within(
    calls: Sequence[Call], layers: Collection[int]
) -> tuple[tuple[Call, ...], tuple[Call, ...]]:
    """Divide a call graph into the calls of some layers and those of all others with weights.

    The calls of these layers are connected as if the others were not there. Calls without weights
    whose outputs reach them come along; all further ones are left out.

    Args:
        calls: Sequence of `Call`, as `call_graph` returns it.
        layers: Ids of layers.

    Returns:
        Two tuples of `Call`.
    """
    kept = [id(call.layer) in layers for call in calls]
    reaches = list(kept)
    for i in reversed(range(len(calls))):
        for source in calls[i].inputs:
            reaches[source] = reaches[source] or reaches[i]
    nearest: list[Sources] = []  # of each call, those kept through which it is reached
    connected = list(calls)
    for i, call in enumerate(calls):
        kept[i] = kept[i] or (reaches[i] and not _is_weighted(call))
        inputs = _union(nearest[source] for source in call.inputs)
        nearest.append((i,) if kept[i] else inputs)
        connected[i] = dataclasses.replace(call, inputs=inputs)
    inside = _renumbered(connected, [i for i, keep in enumerate(kept) if keep])
    others = (call for call, keep in zip(calls, kept, strict=True) if not keep)
    return tuple(inside), tuple(call for call in others if _is_weighted(call))


def _is_weighted(call: Call) -> bool:
    return call.layer is not None and bool(call.layer.weights)


def distances(
    calls: Sequence[Call], targets: Iterable[int], length: Callable[[Call], int] = lambda call: 1
) -> list[int]:
    """Return each call's longest distance to any target, in calls if `length` is not given.

    It is -1 where a call reaches none.
    """
    found = [-1] * len(calls)
    for target in targets:
        found[target] = 0
    for i in reversed(range(len(calls))):
        for source in calls[i].inputs:
            if found[i] >= 0:
                found[source] = max(found[source], found[i] + length(calls[i]))
    return found


def _ordered(calls: Sequence[Call]) -> list[Call]:
    """Sort calls by level; within a level, by the order in which the outputs need them."""
    levels = _levels(calls)
    rank = {i: n for n, i in enumerate(_postorder(calls))}
    return _renumbered(calls, sorted(range(len(calls)), key=lambda i: (levels[i], rank[i])))


def _with_owners(calls: Sequence[Call]) -> Iterator[Call]:
    """Let only the first call that uses a weight own it."""
    used: set[int] = set()
    for call in calls:
        layer = call.layer if call.owns_weights else None
        weights = {id(weight) for weight in layer.weights} if layer is not None else set()
        yield dataclasses.replace(call, owns_weights=not weights <= used)
        used |= weights


def _levels(calls: Sequence[Call]) -> list[int]:
    """As late as possible on the way to the deepest output, as early as possible elsewhere.

    Model inputs and weight-free functions of them come early too: they divide nothing.
    """
    from_input: list[int] = []
    for call in calls:
        from_input.append(1 + max((from_input[i] for i in call.inputs), default=-1))
    outputs = [i for i, call in enumerate(calls) if call.is_output]
    deepest = max(outputs, key=lambda i: from_input[i], default=len(calls) - 1)
    to_output = distances(calls, [deepest])
    levels: list[int] = []
    for i, call in enumerate(calls):
        if call.carries_weights and to_output[i] >= 0:
            levels.append(max(to_output) - to_output[i])
        else:
            levels.append(1 + max((levels[j] for j in call.inputs), default=-1))
    return levels


def _postorder(calls: Sequence[Call]) -> list[int]:
    """Depth-first from the outputs, inputs first; without recursion, models can be deep."""
    visited: dict[int, None] = {}
    outputs = [i for i, call in enumerate(calls) if call.is_output]
    for start in (*outputs, *range(len(calls))):
        stack = [(start, False)]
        while stack:
            i, inputs_done = stack.pop()
            if i in visited:
                continue
            if inputs_done:
                visited[i] = None
            else:
                stack.append((i, True))
                stack.extend((j, False) for j in reversed(calls[i].inputs))
    return list(visited)
