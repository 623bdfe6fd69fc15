"""Find where a model can be cut: what is computed once, and what in every step. Pure.

A cut goes through the graph of a Functional or Sequential model and, where it falls inside a
nested one, through that one's graph too. The tensors that cross it are its frontier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import keras

from keras_freeze.keras_internals.graph import graph_nodes, origin_of, walked_graph
from keras_freeze.keras_internals.layers import sublayers
from keras_freeze.model_picture import weights_of_operation
from keras_freeze.prefix_cache.determinism import reason_against, reason_in_graph
from keras_freeze.prefix_cache.layer_rules import Setting
from keras_freeze.prefix_cache.reasons import NoCut, Reason
from keras_freeze.prefix_cache.workload import work_of_call, work_of_layer

# What a tensor is: computed from the batch without weights, so that it costs little to compute
# again; or an output of frozen layers, worth caching.
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
        """Return the calls that lead to what is kept, from tensors whose ids are known."""
        return self.remaining_from(known)[0] if known else list(self.before)

    def remaining_from(self, known: Collection[int]) -> tuple[list[Any], set[int]]:
        """Return these calls, and the ids of the tensors that they need."""
        wanted = {id(tensor) for tensor in self.kept if id(tensor) not in known}
        found = []
        for node in reversed(self.before):
            inner = self.inner.get(id(node))
            if inner is not None:
                # Its walk is always begun; its inputs are read if its first calls remain.
                inputs = {id(tensor) for tensor in inner.graph.inputs}
                needs_inputs = bool(inputs & inner.remaining_from(known)[1])
            else:
                needs_inputs = any(id(tensor) in wanted for tensor in node.output_tensors)
            if inner is not None or needs_inputs:
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
        name: Str, the names of the layers whose output is kept.
        ended_by: Why the first layer behind the cut is not before it; None if it is trainable.
        work: Multiplications before the cut for one sample.
        share: Part of the model's forward pass that this is, from 0 to 1.
    """

    setting: Setting
    cuts: tuple[GraphCut, ...]
    children: tuple[keras.Layer, ...]
    split: tuple[keras.Layer, ...]
    layers: tuple[keras.Layer, ...]
    name: str
    ended_by: NoCut | None
    work: float
    share: float

    def work_from(self, known: Collection[int]) -> float:
        """Return about how many multiplications lead from known tensors to what is kept."""
        work = 0.0
        for cut in self.cuts:
            for node in cut.remaining(known):
                if id(node) not in cut.inner:
                    work += work_of_call(node)
        return work


def find(model: keras.Model, setting: Setting) -> Frontier | NoCut:
    """Return where a model can be cut, or why it can't.

    Args:
        model: `keras.Model`, built.
        setting: `Setting`, what trains and how the frozen part is called.
    """
    graph = walked_graph(model)
    if graph is None:
        return _in_calls(model, setting)
    cuts, reasons = _cuts_through(graph, setting)
    if len({id(cut.graph) for cut in cuts}) < len(cuts):
        detail = "a model inside it that is partly frozen is used in several places"
        return NoCut(Reason.USED_TWICE, detail)
    if not any(cut.kept for cut in cuts):
        return reasons[0] if reasons else NoCut(Reason.NOTHING_FROZEN)
    work = sum(work_of_call(node) for cut in cuts for node in cut.before)
    whole = sum(map(work_of_call, graph_nodes(graph)))
    others = [reason for reason in reasons if reason.reason is not Reason.TRAINS]
    return Frontier(
        setting=setting,
        cuts=cuts,
        children=(),
        split=(),
        layers=_weighted_layers(cuts),
        name=", ".join(_kept_names(cuts)),
        ended_by=others[0] if others else None,
        work=work,
        share=work / whole if whole else 0.0,
    )


def _in_calls(model: keras.Model, setting: Setting) -> Frontier | NoCut:
    """Cut a subclassed model at the calls of its own layers."""
    children = sublayers(model)
    whole: list[keras.Layer] = []
    split: list[keras.Layer] = []
    cuts: tuple[GraphCut, ...] = ()
    reasons: list[NoCut] = []
    for layer in children:
        reason = reason_against(layer, setting)
        if reason is None:
            whole += [layer] if layer.weights else []
            continue
        reasons.append(reason)
        graph = walked_graph(layer)
        if graph is not None:
            own, _ = _cuts_through(graph, setting)
            if any(cut.kept for cut in own):
                split.append(layer)
                cuts += own
    if not whole and not cuts:
        return reasons[0] if reasons else NoCut(Reason.NOTHING_FROZEN)
    work = sum(map(work_of_layer, whole))
    work += sum(work_of_call(node) for cut in cuts for node in cut.before)
    return Frontier(
        setting=setting,
        cuts=cuts,
        children=children,
        split=tuple(split),
        layers=(*whole, *_weighted_layers(cuts)),
        name=", ".join([*(layer.name for layer in whole), *_kept_names(cuts)]),
        ended_by=None,
        work=work,
        share=work / max(1.0, sum(map(work_of_layer, children))),
    )


def _cuts_through(graph: Any, setting: Setting) -> tuple[tuple[GraphCut, ...], list[NoCut]]:
    """Return the cuts through a graph and those nested in it, and what ends them."""
    analysis = _Analysis(setting, graph)
    cut = analysis.cut(graph, dict.fromkeys(map(id, graph.inputs), "free"))
    return tuple(cut.every_cut()), analysis.reasons


class _Analysis:
    """One pass through a model's graphs."""

    def __init__(self, setting: Setting, graph: Any) -> None:
        self.setting = setting
        self.reasons: list[NoCut] = []
        self.batch = graph.inputs[0].shape[:1]

    def cut(self, graph: Any, kinds: dict[int, Kind]) -> GraphCut:
        """Cut a graph whose inputs are of these kinds, and record the kinds of other tensors."""
        cacheable, inner = self._classified(graph, kinds)
        if self.setting.inference:
            cacheable = self._without_end(graph, cacheable, kinds)
        nodes = [node for node in graph_nodes(graph) if not node.is_input]
        read = {id(tensor) for tensor in graph.outputs}  # by the calls behind the cut
        read_inside: set[int] = set()  # by nested models that are cut themselves
        for node in nodes:
            if id(node) in inner:
                read_inside.update(map(id, node.input_tensors))
            elif id(node) not in cacheable:
                read.update(map(id, node.input_tensors))
        kept: dict[int, Any] = {}
        free: set[int] = set()
        for tensor in (*graph.inputs, *(t for node in nodes for t in node.output_tensors)):
            kind = kinds.get(id(tensor))
            if kind == "free":
                free.add(id(tensor))
            elif kind == "kept" and id(tensor) in read:
                kept[id(tensor)] = tensor
        before = _leading_to(read_inside.union(kept), nodes, cacheable) | set(inner)
        again = _leading_to((read | read_inside) & free, nodes, cacheable)
        return GraphCut(
            graph,
            kept=tuple(kept.values()),
            before=tuple(node for node in nodes if id(node) in before),
            after=tuple(n for n in nodes if id(n) in again or id(n) not in cacheable),
            inner=inner,
        )

    def _classified(
        self, graph: Any, kinds: dict[int, Kind]
    ) -> tuple[set[int], dict[int, GraphCut]]:
        """Return the ids of the calls that can be cached, and the cuts inside of others."""
        cacheable: set[int] = set()
        inner: dict[int, GraphCut] = {}
        called = [id(node.operation) for node in graph_nodes(graph)]
        for node in graph_nodes(graph):
            given = [kinds[id(t)] for t in node.input_tensors if id(t) in kinds]
            if node.is_input or len(given) < len(node.input_tensors):
                continue
            reason = self._reason_against(node)
            nested = walked_graph(node.operation)
            if reason is None:
                cacheable.add(id(node))
                is_free = "kept" not in given and not weights_of_operation(node.operation)
                kinds.update((id(t), "free" if is_free else "kept") for t in node.output_tensors)
            elif nested is None or called.count(id(node.operation)) > 1:
                self.reasons.append(reason)
            else:
                cut = self.cut(nested, dict(zip(map(id, nested.inputs), given, strict=True)))
                if any(one.kept for one in cut.every_cut()):
                    inner[id(node)] = cut
        return cacheable, inner

    def _without_end(self, graph: Any, cacheable: set[int], kinds: dict[int, Kind]) -> set[int]:
        """Leave out what is stochastic behind the last frozen weights: it is the head's."""
        nodes = [node for node in graph_nodes(graph) if id(node) in cacheable]
        weighted = [node for node in nodes if weights_of_operation(node.operation)]
        outputs = {id(t) for node in weighted for t in node.output_tensors}
        leading = _leading_to(outputs, nodes, cacheable)
        training = dataclasses.replace(self.setting, inference=False)
        left = set(cacheable)
        for node in nodes:
            is_known = all(id(t) in kinds for t in node.input_tensors)
            if not is_known or (id(node) not in leading and reason_in_graph(node, training)):
                left.remove(id(node))
                for tensor in node.output_tensors:
                    del kinds[id(tensor)]
        return left

    def _reason_against(self, node: Any) -> NoCut | None:
        reason = reason_in_graph(node, self.setting)
        if reason is None and any(t.shape[:1] != self.batch for t in node.output_tensors):
            detail = f"{node.operation.name!r} does not return one row per sample"
            return NoCut(Reason.ACROSS_SAMPLES, detail)
        return reason


def _leading_to(wanted: set[int], nodes: Sequence[Any], cacheable: set[int]) -> set[int]:
    """Return the ids of the calls that these tensors are computed by."""
    found: set[int] = set()
    for node in reversed(nodes):
        if id(node) in cacheable and any(id(t) in wanted for t in node.output_tensors):
            found.add(id(node))
            wanted = wanted.union(map(id, node.input_tensors))
    return found


def _kept_names(cuts: Sequence[GraphCut]) -> list[str]:
    return [origin_of(tensor).name for cut in cuts for tensor in cut.kept]


def _weighted_layers(cuts: Sequence[GraphCut]) -> tuple[keras.Layer, ...]:
    layers: dict[int, keras.Layer] = {}
    for cut in cuts:
        for node in cut.before:
            if id(node) not in cut.inner and weights_of_operation(node.operation):
                layers[id(node.operation)] = node.operation
    return tuple(layers.values())
