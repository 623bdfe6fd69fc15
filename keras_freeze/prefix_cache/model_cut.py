"""Find where a model can be cut: what is computed once, and what in every step. Pure.

A cut goes through the graph of a Functional or Sequential model and, where it falls inside a
nested one, through that one's graph too. The tensors that cross it are its frontier.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import keras

from keras_freeze.keras_internals.graph import (
    functional_graph,
    graph_nodes,
    origin_of,
    walked_graph,
)
from keras_freeze.keras_internals.layers import sublayers
from keras_freeze.model_picture import weights_of_operation
from keras_freeze.prefix_cache.determinism import Setting, reason_against, reason_in_graph

# What a tensor is: computed from the batch without weights, so that it costs little to compute
# again; or an output of frozen layers, worth to be kept.
Kind = Literal["free", "kept"]


@dataclasses.dataclass(frozen=True, eq=False)
class GraphCut:
    """The cut through one graph.

    Attributes:
        graph: The object that holds the graph.
        kept: Symbolic tensors of the graph that cross the cut; their values are cached.
        before: Calls that lead to them, in order.
        after: Calls that every step makes, in order.
        inner: Cuts inside nested models, by the id of the call of the nested model.
    """

    graph: Any
    kept: tuple[Any, ...]
    before: tuple[Any, ...]
    after: tuple[Any, ...]
    inner: Mapping[int, GraphCut]

    def every_cut(self) -> Iterator[GraphCut]:
        """Yield this cut and those inside it, in the order in which their values are kept."""
        yield self
        for cut in self.inner.values():
            yield from cut.every_cut()

    def remaining(self, known: Collection[int]) -> list[Any]:
        """Return the calls that lead to what is kept, from tensors of which the ids are known."""
        return self._remaining(known)[0] if known else list(self.before)

    def _remaining(self, known: Collection[int]) -> tuple[list[Any], set[int]]:
        wanted = {id(tensor) for tensor in self.kept if id(tensor) not in known}
        found = []
        for node in reversed(self.before):
            inner = self.inner.get(id(node))
            needs_inputs = inner is None
            if inner is not None:
                inputs = {id(tensor) for tensor in inner.graph.inputs}
                needs_inputs = bool(inputs & inner._remaining(known)[1])
            elif all(id(tensor) not in wanted for tensor in node.output_tensors):
                continue
            found.append(node)
            if needs_inputs:
                wanted |= {id(t) for t in node.input_tensors if id(t) not in known}
        return found[::-1], wanted


@dataclasses.dataclass(frozen=True, eq=False)
class Frontier:
    """Where a model is cut.

    Attributes:
        setting: What trains and how the frozen part is called.
        cuts: Every `GraphCut`, the model's own first.
        children: The own layers of a subclassed model, which is cut at their calls.
        split: Those of them that are models and cut themselves.
        layers: Layers before the cut that have weights.
        name: Str, the names of the layers of which the output is kept.
        ended_by: Why the first layer behind the cut is not before it; "" if it just trains.
        work: Multiplications before the cut for one sample.
        share: Part of the model's forward pass that this is, from 0 to 1.
    """

    setting: Setting
    cuts: tuple[GraphCut, ...]
    children: tuple[keras.Layer, ...]
    split: tuple[keras.Layer, ...]
    layers: tuple[keras.Layer, ...]
    name: str
    ended_by: str
    work: float
    share: float


def find(model: keras.Model, setting: Setting) -> Frontier | str:
    """Return where a model can be cut, or the reason why it can't.

    Args:
        model: `keras.Model`, built.
        setting: `Setting`, what trains and how the frozen part is called.

    Returns:
        `Frontier`; or str, the reason, "" if no frozen layer comes before those that train.
    """
    graph = walked_graph(model)
    if graph is None:
        return _in_calls(model, setting)
    analysis = _Analysis(setting, graph)
    cut = analysis.cut(graph, dict.fromkeys(map(id, graph.inputs), "free"))
    cuts = tuple(cut.every_cut())
    if len({id(one.graph) for one in cuts}) < len(cuts):
        return "a model inside it that is frozen in part is used in several places"
    if not any(one.kept for one in cuts):
        first = next(iter(analysis.reasons), "")
        return "" if _just_trains(first) else first
    layers = tuple(dict.fromkeys(_weighted_layers(cuts)))
    name = ", ".join(origin_of(t).name for one in cuts for t in one.kept)
    work = sum(_work(node) for one in cuts for node in one.before)
    whole = sum(map(_work, graph_nodes(graph)))
    reasons = [reason for reason in analysis.reasons if not _just_trains(reason)]
    share = work / whole if whole else 0.0
    ended_by = reasons[0] if reasons else ""
    return Frontier(setting, cuts, (), (), layers, name, ended_by, work, share)


def _in_calls(model: keras.Model, setting: Setting) -> Frontier | str:
    """Cut a subclassed model at the calls of its own layers."""
    children = sublayers(model)
    reasons = {id(layer): reason_against(layer, setting) for layer in children}
    whole = [layer for layer in children if reasons[id(layer)] is None and layer.weights]
    split: dict[int, tuple[GraphCut, ...]] = {}
    for layer in children:
        graph = walked_graph(layer)
        if graph is not None and reasons[id(layer)] is not None:
            cut = _Analysis(setting, graph).cut(graph, dict.fromkeys(map(id, graph.inputs), "free"))
            if any(one.kept for one in cut.every_cut()):
                split[id(layer)] = tuple(cut.every_cut())
    cuts = tuple(one for own in split.values() for one in own)
    if not whole and not cuts:
        first = next((reason for reason in reasons.values() if reason), "")
        return "" if _just_trains(first) else first
    work = sum(map(_work_of, whole)) + sum(_work(node) for one in cuts for node in one.before)
    names = [layer.name for layer in whole]
    names += [origin_of(t).name for one in cuts for t in one.kept]
    return Frontier(
        setting,
        cuts,
        children,
        tuple(layer for layer in children if id(layer) in split),
        (*whole, *dict.fromkeys(_weighted_layers(cuts))),
        ", ".join(names),
        "",
        work,
        work / max(1.0, sum(map(_work_of, children))),
    )


def work_from(frontier: Frontier, known: Collection[int]) -> float:
    """Return about how many multiplications lead from known tensors to what is kept."""
    return sum(
        _work(node)
        for cut in frontier.cuts
        for node in cut.remaining(known)
        if id(node) not in cut.inner
    )


def _work_of(layer: keras.Layer) -> float:
    """Return about how many multiplications a layer takes, of which no call is known."""
    graph = functional_graph(layer)
    if graph is not None:
        return sum(map(_work, graph_nodes(graph)))
    return float(sum(math.prod(v.shape) for v in layer.weights if len(v.shape) > 1))


class _Analysis:
    """One pass through a model's graphs."""

    def __init__(self, setting: Setting, graph: Any) -> None:
        self.setting = setting
        self.reasons: list[str] = []
        self.batch = graph.inputs[0].shape[:1]

    def cut(self, graph: Any, kinds: dict[int, Kind]) -> GraphCut:
        """Cut a graph of which the inputs are of these kinds, and note the kinds of others."""
        able, inner = self._able(graph, kinds)
        nodes = [node for node in graph_nodes(graph) if not node.is_input]
        behind = [node for node in nodes if id(node) not in able]
        wanted = {id(t) for node in behind if id(node) not in inner for t in node.input_tensors}
        wanted |= {id(t) for t in graph.outputs}
        everything = [*graph.inputs, *(t for node in nodes for t in node.output_tensors)]
        kept = [t for t in everything if id(t) in wanted and kinds.get(id(t)) == "kept"]
        inside = {id(t) for node in behind if id(node) in inner for t in node.input_tensors}
        before = _leading_to({id(t) for t in kept} | inside, nodes, able)
        before = [node for node in nodes if node in before or id(node) in inner]
        free = {id(t) for t in everything if kinds.get(id(t)) == "free"}
        again = _leading_to((wanted | inside) & free, nodes, able)
        after = [node for node in nodes if node in again or id(node) not in able]
        return GraphCut(graph, tuple(_unique(kept)), tuple(before), tuple(after), inner)

    def _able(self, graph: Any, kinds: dict[int, Kind]) -> tuple[set[int], dict[int, GraphCut]]:
        able: set[int] = set()
        inference = self.setting.inference
        inner: dict[int, GraphCut] = {}
        calls = [id(node.operation) for node in graph_nodes(graph)]
        for node in graph_nodes(graph):
            given = [kinds.get(id(t)) for t in node.input_tensors]
            if node.is_input or None in given:
                continue
            reason = self._reason(node)
            if reason is None:
                able.add(id(node))
                is_free = "kept" not in given and not weights_of_operation(node.operation)
                kinds.update((id(t), "free" if is_free else "kept") for t in node.output_tensors)
                continue
            nested = walked_graph(node.operation)
            if nested is None or calls.count(id(node.operation)) > 1:
                self.reasons.append(reason)
                continue
            within = zip(map(id, nested.inputs), given, strict=True)
            found = self.cut(nested, {i: kind for i, kind in within if kind is not None})
            if any(cut.kept for cut in found.every_cut()):
                inner[id(node)] = found
        return (self._without_end(graph, able, kinds), inner) if inference else (able, inner)

    def _without_end(self, graph: Any, able: set[int], kinds: dict[int, Kind]) -> set[int]:
        """Leave out what acts at random behind the last frozen weights: it is the head's."""
        nodes = [node for node in graph_nodes(graph) if id(node) in able]
        heavy = [node for node in nodes if weights_of_operation(node.operation)]
        leading = _leading_to({id(t) for node in heavy for t in node.output_tensors}, nodes, able)
        training = dataclasses.replace(self.setting, inference=False)
        for node in nodes:
            known = all(id(t) in kinds for t in node.input_tensors)
            if not known or (node not in leading and reason_in_graph(node, training)):
                able = able - {id(node)}
                for tensor in node.output_tensors:
                    del kinds[id(tensor)]
        return able

    def _reason(self, node: Any) -> str | None:
        reason = reason_in_graph(node, self.setting)
        if reason is None and any(t.shape[:1] != self.batch for t in node.output_tensors):
            return f"{node.operation.name!r} returns something else than a row for each sample"
        return reason


def _just_trains(reason: str) -> bool:
    return reason.endswith("' trains")


def _leading_to(wanted: set[int], nodes: Sequence[Any], able: set[int]) -> list[Any]:
    """Return the calls that these tensors are computed by, from input to output."""
    found: list[Any] = []
    for node in reversed(nodes):
        if id(node) in able and any(id(t) in wanted for t in node.output_tensors):
            found.append(node)
            wanted = wanted | {id(t) for t in node.input_tensors}
    return found[::-1]


def _unique(tensors: Sequence[Any]) -> list[Any]:
    return list({id(t): t for t in tensors}.values())


def _weighted_layers(cuts: Sequence[GraphCut]) -> Iterator[keras.Layer]:
    for cut in cuts:
        for node in cut.before:
            if id(node) not in cut.inner and weights_of_operation(node.operation):
                yield node.operation


def _work(node: Any) -> float:
    """Return about how many multiplications a call takes for one sample."""
    nested = functional_graph(node.operation)
    if nested is not None:
        return sum(map(_work, graph_nodes(nested)))
    if node.is_input or isinstance(node.operation, keras.layers.Embedding):
        return 0.0
    weights = weights_of_operation(node.operation)
    matrices = sum(math.prod(v.shape) for v in weights if len(v.shape) > 1)
    return float(matrices * _positions(node))


def _positions(node: Any) -> int:
    """Return at how many places of a sample a call applies its weights."""
    recurrent = isinstance(node.operation, (keras.layers.RNN, keras.layers.Bidirectional))
    tensor = node.input_tensors[0] if recurrent else node.output_tensors[0]
    return math.prod(size for size in tensor.shape[1:-1] if size)
