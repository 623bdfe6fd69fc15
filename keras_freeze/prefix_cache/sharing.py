"""A cut whose features are shared with other trainings: those of it, and of shallower cuts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import keras
import numpy as np

from keras_freeze.cuts import Frontier
from keras_freeze.features import Library, Shelf
from keras_freeze.prefix_cache.batches import Batch
from keras_freeze.prefix_cache.compiled_prefix import Prefix, Start
from keras_freeze.prefix_cache.tensor_names import names_of


class SharedCut:
    """The shelves of a library that serve one cut of one model.

    Args:
        library: `Library`.
        prefix: `Prefix` of the cut, from the inputs on.
        values: Values of weights by their ids, as for `names_of`.
        by_name: Bool, as for `names_of`.
        is_drawn: Bool, whether the inputs are augmented. Defaults to False.
    """

    def __init__(
        self,
        library: Library,
        prefix: Prefix,
        values: Mapping[int, Any],
        *,
        by_name: bool,
        is_drawn: bool = False,
    ) -> None:
        self._library = library
        self._prefix = prefix
        names = names_of(prefix.frontier, values, by_name=by_name)
        kept = [tensor for cut in prefix.frontier.cuts for tensor in cut.kept]
        self._names = tuple(names[id(t)] for t in kept if id(t) in names)
        #: Bool, whether all that is kept can be named.
        self.is_possible = len(self._names) == len(kept) > 0
        self._tensors = {names[id(t)]: t for t in _tensors(prefix.frontier) if id(t) in names}
        self._from: dict[int, Prefix] = {}
        self._is_drawn = is_drawn
        self._made_by = library.made_by(prefix.model) + ", bfloat16" * bool(prefix.lowered)

    def shelf(self, batch: Batch) -> Shelf | None:
        """Return where features of such batches are kept; None if none have been computed."""
        masked = self._prefix.masked
        if masked is None:
            return self._library.find(self._key(batch), self._names)
        flat = [mask for own in masked for mask in own]
        shapes = self._prefix.shapes(batch)
        label = f"{self._prefix.frontier.name} of {self._prefix.model.name}"
        return self._library.shelf(self._key(batch), self._names, flat, shapes, label)

    def of_others(self, batch: Batch) -> list[np.ndarray] | None:
        """Return the features of a batch if other trainings have computed all of them."""
        shelf = self.shelf(batch)
        rows = shelf.store.get(batch.keys) if shelf else None
        if shelf and rows is not None:
            self._prefix.adopt(batch, shelf.masked, shelf.shapes)
        return rows

    def compute(self, batch: Batch) -> list[Any] | None:
        """Compute the features of a batch from those of a shallower cut; None if there are none."""
        if self._is_drawn:
            return None
        best: tuple[float, Shelf] | None = None
        for shelf in self._library.below(self._key(batch), self._tensors):
            if shelf.names != self._names and shelf.store.hits(batch.keys) == len(batch.keys):
                known = {id(self._tensors[name]) for name in shelf.names}
                work = self._prefix.frontier.work_from(known)
                if best is None or work < best[0]:
                    best = work, shelf
        rows = best[1].store.get(batch.keys) if best else None
        if best is None or rows is None:
            return None
        prefix = self._prefix_from(best[1])
        return prefix(batch, [keras.ops.convert_to_tensor(row) for row in rows])

    def forget(self) -> None:
        """Remove the features of this cut, which may be outdated."""
        self._library.drop(self._names)

    def _key(self, batch: Batch) -> Hashable:
        """Return what the bits depend on besides the samples: how the step is compiled."""
        model = self._prefix.model
        promised = None if batch.promised is None else tuple(keras.tree.flatten(batch.promised))
        how = model.run_eagerly, model.jit_compile, self._made_by, self._is_drawn
        return batch.kind, promised, *how

    def _prefix_from(self, shelf: Shelf) -> Prefix:
        if id(shelf) not in self._from:
            own = self._prefix
            tensors = tuple(self._tensors[name] for name in shelf.names)
            start = Start(tensors, shelf.masked, shelf.shapes)
            made = Prefix(own.model, own.frontier, own.training, start, own.lowered)
            self._from[id(shelf)] = made
        return self._from[id(shelf)]


def _tensors(frontier: Frontier) -> list[Any]:
    """Return the symbolic tensors that a walk up to a cut computes."""
    calls = [node for cut in frontier.cuts for node in cut.before if id(node) not in cut.inner]
    return [tensor for node in calls for tensor in node.output_tensors]
