"""Find where a model can be cut: what is computed once, and what in every step. Pure.

A cut goes through the graph of a Functional or Sequential model and, where it falls inside a
nested one, through that one's graph too. The tensors that cross it are its frontier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import keras

from keras_freeze.cuts.determinism import draws, reason_in_graph
from keras_freeze.cuts.determinism_rules import Setting
from keras_freeze.cuts.frontier import Frontier, GraphCut
from keras_freeze.cuts.reasons import NoCut, Reason
from keras_freeze.cuts.workload import work_of_call
from keras_freeze.keras_internals.graph import (
    graph_nodes,
    inputs_of_call,
    origin_of,
    walked_graph,
)
from keras_freeze.model_picture import weights_of_operation

# What a tensor is: computed from the batch without weights, so that it costs little to compute
# again; or so and at random, another one each time; or an output of frozen layers, worth caching.
Kind = Literal["free", "drawn", "kept"]

DRAWN_INSIDE = NoCut(Reason.RANDOM, "augmentation is not between the model's input and its weights")
ONLY_GRAPHS = "only a Functional or Sequential model, as `keras.Model(inputs, outputs)`, can be cut"


def find(model: keras.Model, setting: Setting) -> Frontier | NoCut:
    """Return where a model can be cut, or why it can't.

    Args:
        model: `keras.Model`, built.
        setting: `Setting`, what trains and how the frozen part is called.
    """
    graph = walked_graph(model)
    if graph is None:
        detail = f"model {model.name!r} runs code of its own when it is called"
        return NoCut(Reason.OWN_CODE, f"{detail}, and {ONLY_GRAPHS}")
    cuts, reasons = _cuts_through(graph, setting)
    if len({id(cut.graph) for cut in cuts}) < len(cuts):
        detail = "a model inside it that is partly frozen is used in several places"
        return NoCut(Reason.USED_TWICE, detail)
    kept = [tensor for cut in cuts for tensor in cut.kept]
    if not kept:
        return reasons[0] if reasons else NoCut(Reason.NOTHING_FROZEN)
    # Of a nested model that is cut itself, the calls inside it count.
    inner = {i for cut in cuts for i in cut.inner}
    called = [node for cut in cuts for node in cut.before if id(node) not in inner]
    work = sum(map(work_of_call, called))
    others = [reason for reason in reasons if reason.reason is not Reason.TRAINS]
    frontier = Frontier(
        setting=setting,
        cuts=cuts,
        layers=tuple(dict.fromkeys(filter(weights_of_operation, (n.operation for n in called)))),
        name=", ".join(origin_of(tensor).name for tensor in kept),
        ended_by=others[0] if others else None,
        work=work,
        share=work / max(1.0, sum(map(work_of_call, graph_nodes(graph)))),
    )
    return dataclasses.replace(frontier, augmentation=_augmentation_of(frontier))


def _augmentation_of(frontier: Frontier) -> Frontier | None:
    """Return the cut that keeps what random layers give to all others; None if there are none."""
    setting, outer = frontier.setting, frontier.cuts[0]
    drawn: dict[int, Any] = {}
    for node in outer.before:
        is_read = any(id(tensor) in drawn for tensor in node.input_tensors)
        if draws(node.operation, setting) or (is_read and not weights_of_operation(node.operation)):
            drawn.update((id(tensor), tensor) for tensor in node.output_tensors)
    others = [node for node in graph_nodes(outer.graph) if not drawn.keys() & _outputs_of(node)]
    read = _read_by(others).union(map(id, outer.graph.outputs))
    kept = tuple(tensor for i, tensor in drawn.items() if i in read)
    before = _leading_to({id(tensor) for tensor in kept}, outer.before, set(map(id, outer.before)))
    calls = tuple(node for node in outer.before if id(node) in before)
    cut = GraphCut(outer.graph, kept, before=calls, after=(), inner={})
    return dataclasses.replace(frontier, cuts=(cut,), layers=()) if kept else None


def _outputs_of(node: Any) -> set[int]:
    return {id(tensor) for tensor in node.output_tensors}


def _cuts_through(graph: Any, setting: Setting) -> tuple[tuple[GraphCut, ...], list[NoCut]]:
    """Return the cuts through a graph and those nested in it, and what ends them."""
    analysis = _Analysis(setting, graph)
    cut = analysis.cut(graph, dict.fromkeys(map(id, graph.inputs), "free"), True)
    return tuple(cut.every_cut()), analysis.reasons


class _Analysis:
    """One pass through a model's graphs."""

    def __init__(self, setting: Setting, graph: Any) -> None:
        self.setting = setting
        self.reasons: list[NoCut] = []
        self.graph = graph
        self.last: set[int] = set()
        self.batch = graph.inputs[0].shape[:1]

    def cut(self, graph: Any, kinds: dict[int, Kind], is_last: bool) -> GraphCut:
        """Cut a graph whose inputs are of these kinds, and record the kinds of other tensors.

        Args:
            graph: The graph.
            kinds: By the ids of its inputs.
            is_last: Bool, whether its outputs are those of the whole model.
        """
        self.last |= _giving_outputs(graph) if is_last else set()
        cacheable, inner = self._classified(graph, kinds)
        if self.setting.inference:
            cacheable = self._without_end(graph, cacheable, kinds, inner)
        nodes = [node for node in graph_nodes(graph) if not node.is_input]
        behind = [node for node in nodes if id(node) not in cacheable and id(node) not in inner]
        read = _read_by(behind).union(map(id, graph.outputs))
        read_inside = _read_by(node for node in nodes if id(node) in inner)
        free = {tensor for tensor, kind in kinds.items() if kind == "free"}
        crossing = read & kinds.keys() - free
        tensors = (*graph.inputs, *(t for node in nodes for t in node.output_tensors))
        kept = {id(tensor): tensor for tensor in tensors if id(tensor) in crossing}
        before = _leading_to(read_inside | crossing, nodes, cacheable) | set(inner)
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
        for node in graph_nodes(graph):
            given = [kinds[id(t)] for t in node.input_tensors if id(t) in kinds]
            if node.is_input or len(given) < len(node.input_tensors):
                continue
            reason = self._reason_against(node)
            kind: Kind = "free"
            if "kept" in given or weights_of_operation(node.operation):
                kind = "kept"
            elif "drawn" in given or draws(node.operation, self.setting):
                kind = "drawn"
            if reason is None and draws(node.operation, self.setting):
                is_at_input = kind == "drawn" and graph is self.graph
                reason = None if is_at_input else DRAWN_INSIDE
            if reason is None and kind == "kept" and id(node) in self.last:
                # A loss may ask an output for more than its value: for its logits, say.
                detail = f"{node.operation.name!r} gives an output of the model"
                reason = NoCut(Reason.IS_OUTPUT, detail)
            if reason is None:
                cacheable.add(id(node))
                kinds.update((id(t), kind) for t in node.output_tensors)
                continue
            cut = self._cut_inside(node, graph, kinds)
            if cut is None:
                self.reasons.append(reason)
            elif any(one.kept for one in cut.every_cut()):
                inner[id(node)] = cut
        return cacheable, inner

    def _cut_inside(self, node: Any, graph: Any, kinds: Mapping[int, Kind]) -> GraphCut | None:
        """Return the cut through the model that is called; None if it can't be cut there."""
        nested = walked_graph(node.operation)
        calls = [other for other in graph_nodes(graph) if other.operation is node.operation]
        if nested is None or len(calls) > 1:
            return None
        inputs = inputs_of_call(node, nested)
        if inputs is None:
            return None
        others = {id(t) for t in node.input_tensors} - set(map(id, inputs))
        if any(kinds[tensor] != "free" for tensor in others):  # masks that are not computed again
            return None
        given = [kinds[id(tensor)] for tensor in inputs]
        is_last = id(node) in self.last
        return self.cut(nested, dict(zip(map(id, nested.inputs), given, strict=True)), is_last)

    def _without_end(
        self, graph: Any, cacheable: set[int], kinds: dict[int, Kind], inner: Collection[int]
    ) -> set[int]:
        """Leave out what is stochastic behind the last frozen weights: it is the head's."""
        nodes = [node for node in graph_nodes(graph) if id(node) in cacheable]
        weighted = [node for node in nodes if weights_of_operation(node.operation)]
        outputs = {id(t) for node in weighted for t in node.output_tensors}
        within = _read_by(node for node in graph_nodes(graph) if id(node) in inner)
        leading = _leading_to(outputs | within, nodes, cacheable)
        training = dataclasses.replace(self.setting, inference=False)
        left = set(cacheable)
        for node in nodes:
            is_head = id(node) not in leading and reason_in_graph(node, training) is not None
            if is_head or not _read_by([node]) <= kinds.keys():
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


def _giving_outputs(graph: Any) -> set[int]:
    """Return the ids of the calls that give outputs, and of those before that change no value."""
    wanted, found = set(map(id, graph.outputs)), set()
    for node in reversed(graph_nodes(graph)):
        if not node.is_input and wanted & _outputs_of(node):
            found.add(id(node))
            if not weights_of_operation(node.operation):
                wanted |= set(map(id, node.input_tensors))
    return found


def _read_by(nodes: Iterable[Any]) -> set[int]:
    """Return the ids of the tensors that calls read."""
    return {id(tensor) for node in nodes for tensor in node.input_tensors}


def _leading_to(wanted: set[int], nodes: Sequence[Any], cacheable: set[int]) -> set[int]:
    """Return the ids of the calls that these tensors are computed by."""
    found: set[int] = set()
    for node in reversed(nodes):
        if id(node) in cacheable and any(id(t) in wanted for t in node.output_tensors):
            found.add(id(node))
            wanted = wanted.union(map(id, node.input_tensors))
    return found
