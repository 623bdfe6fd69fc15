"""Where a model is cut, as values: the cut through each graph, and what crosses it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import keras

from keras_freeze.cuts.determinism_rules import Setting
from keras_freeze.cuts.reasons import NoCut
from keras_freeze.cuts.workload import work_of_call


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
            needs_inputs = self._needs_inputs(node, wanted, known)
            if needs_inputs:
                wanted |= {id(t) for t in node.input_tensors if id(t) not in known}
            if needs_inputs or id(node) in self.inner:
                found.append(node)
        return found[::-1], wanted

    def _needs_inputs(self, node: Any, wanted: set[int], known: Collection[int]) -> bool:
        inner = self.inner.get(id(node))
        if inner is None:
            return any(id(tensor) in wanted for tensor in node.output_tensors)
        # Its walk is always begun; its inputs are read if its first calls remain.
        _, wanted_inside = inner.remaining_from(known)
        return any(id(tensor) in wanted_inside for tensor in inner.graph.inputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Frontier:
    """Where a model is cut.

    Attributes:
        setting: What trains and how the frozen part is called.
        cuts: Every `GraphCut`, the model's own first.
        layers: Layers before the cut that have weights.
        name: Str, the names of the layers whose output is kept.
        ended_by: Why the first layer behind the cut is not before it; None if it is trainable.
        work: Multiplications before the cut for one sample.
        share: Part of the model's forward pass that this is, from 0 to 1.
        augmentation: The cut behind the random layers at the input of which views are kept; None
            if there are none.
    """

    setting: Setting
    cuts: tuple[GraphCut, ...]
    layers: tuple[keras.Layer, ...]
    name: str
    ended_by: NoCut | None
    work: float
    share: float
    augmentation: Frontier | None = None

    def work_from(self, known: Collection[int]) -> float:
        """Return about how many multiplications lead from known tensors to what is kept."""
        work = 0.0
        for cut in self.cuts:
            for node in cut.remaining(known):
                if id(node) not in cut.inner:
                    work += work_of_call(node)
        return work
