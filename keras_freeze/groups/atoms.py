"""Cut a call graph into atoms: the pieces that no layer group may divide.

A model can be divided cleanly where a single tensor crosses from one part to the next. What
lies between two such points (a residual block, an inception mix) is an atom. Only tensors
that depend on some weight are counted: a padding mask crosses everything and divides nothing.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import keras

from keras_freeze.groups import kinds
from keras_freeze.groups.call_graph import Call
from keras_freeze.model_picture import is_attention, is_embedding

# A piece with more weighted layers than this is no atom: in a small model, a quarter of it.
_FEW_WEIGHTED, _MANY_WEIGHTED = 12, 40
_SEVERAL_RESOLUTIONS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Atom:
    """A run of calls that stays together.

    Attributes:
        positions: Tuple of ints. Where the calls stand in the call graph, ascending.
        calls: Tuple of `Call`.
    """

    positions: tuple[int, ...]
    calls: tuple[Call, ...]

    @functools.cached_property
    def weighted(self) -> tuple[keras.Layer, ...]:
        """The layers whose weights belong to this atom."""
        return tuple(call.layer for call in self.calls if call.owns_weights)

    @functools.cached_property
    def main(self) -> tuple[keras.Layer, ...]:
        """Those that do more than normalize or scale what another layer computes."""
        return tuple(layer for layer in self.weighted if not kinds.accompanies(layer))

    @property
    def accompanies(self) -> bool:
        """Whether it only normalizes or the like, and belongs to the atom before it."""
        return not self.main

    @functools.cached_property
    def attends(self) -> bool:
        """Whether there is an attention layer in it."""
        return any(is_attention(layer) for layer in self.weighted)

    @functools.cached_property
    def embeds(self) -> bool:
        """Whether there is an embedding in it."""
        return any(is_embedding(layer) for layer in self.weighted)

    @functools.cached_property
    def block(self) -> bool:
        """Whether it holds a recurrent layer or a whole transformer block."""
        return any(kinds.is_block(layer) for layer in self.weighted)

    @property
    def stride(self) -> float:
        """The stride of its coarsest layer with weights, relative to the model's input."""
        return max((call.stride for call in self.calls if call.owns_weights), default=1.0)

    @property
    def rank(self) -> int | None:
        """The dimensions of its output, batch included."""
        return self.calls[-1].rank


@dataclasses.dataclass(frozen=True, eq=False)
class Chains:
    """A model as chains of atoms.

    Attributes:
        trunk: Tuple of `Atom`, from input to head.
        towers: Tuple of tuples of `Atom`: branches that start at inputs of their own and
            join the trunk later.
    """

    trunk: tuple[Atom, ...]
    towers: tuple[tuple[Atom, ...], ...]


def chains(calls: Sequence[Call]) -> Chains:
    """Divide a call graph into a trunk and the towers that join it, each a chain of atoms.

    Args:
        calls: Sequence of `Call`, as `call_graph` returns it.

    Returns:
        `Chains`; every call is in exactly one atom.
    """
    trunk, *towers = (tuple(_Cutter(calls, branch).atoms()) for branch in _branches(calls))
    return Chains(trunk, tuple(towers))


# Towers


@dataclasses.dataclass(eq=False)
class _Branch:
    """Calls that tensors connect, while they are collected.

    `layers` are those with weights, except norms and the like. A model input is in one branch
    with all that read it, so each branch has inputs of its own.
    """

    positions: list[int] = dataclasses.field(default_factory=list)
    layers: list[keras.Layer] = dataclasses.field(default_factory=list)

    def add(self, other: _Branch) -> None:
        self.positions += other.positions
        self.layers += other.layers

    @property
    def is_entrance(self) -> bool:
        return len(self.layers) < 2 or all(is_embedding(layer) for layer in self.layers)


def _branches(calls: Sequence[Call]) -> list[list[int]]:
    """Return the positions of the trunk, which holds the last call, and of each tower."""
    branch_of: list[_Branch] = []  # of each call so far; a tower's calls end up in the trunk's
    towers: list[_Branch] = []
    for position, call in enumerate(calls):
        read = list(dict.fromkeys(branch_of[source] for source in call.inputs))
        branch, apart = _join(read)
        towers += apart
        if len(read) > 1:
            branch_of = [branch if other in read else other for other in branch_of]
        branch_of.append(branch)
        branch.positions.append(position)
        if call.owns_weights and not kinds.accompanies(call.layer):
            branch.layers.append(call.layer)
    trunk = branch_of[-1]
    trunk, apart = _join(list(dict.fromkeys([trunk, *branch_of])), main=trunk)
    return [sorted(branch.positions) for branch in (trunk, *towers, *apart)]


def _join(read: Sequence[_Branch], main: _Branch | None = None) -> tuple[_Branch, list[_Branch]]:
    """Unite branches that meet, except for towers: they have layers and inputs of their own.

    Lone layers that meet at once (token, position and segment embeddings) are no towers.
    """
    main = main or max(read, key=lambda branch: len(branch.layers), default=_Branch())
    towers, lone = [], _Branch()
    for branch in read:
        if branch is main:
            continue
        if len(branch.layers) > 1:
            towers.append(branch)
        elif branch.layers:
            lone.add(branch)
        else:
            main.add(branch)
    if lone.layers and (towers or not main.is_entrance):
        towers.append(lone)
    else:
        main.add(lone)
    return main, towers


# Cuts


class _Cutter:
    """Cuts one chain of calls; tensors from outside the chain are not counted."""

    def __init__(self, calls: Sequence[Call], chain: Sequence[int]) -> None:
        self.calls = calls
        self.chain = chain
        self.inside = set(chain)
        self.weighted = sum(calls[i].owns_weights for i in chain)
        self.last_reader = list(range(len(calls)))
        for i, call in enumerate(calls):
            for source in call.inputs:
                self.last_reader[source] = i

    def atoms(self) -> Iterator[Atom]:
        cuts = [n for n, count in enumerate(self._crossing(self.chain)) if count <= 1]
        for piece in _slices(self.chain, cuts):
            for positions in self._refined(piece):
                yield Atom(positions, tuple(self.calls[i] for i in positions))

    def _crossing(self, positions: Sequence[int]) -> list[int]:
        """Count the tensors that cross from before each position to it or beyond."""
        index = {position: n for n, position in enumerate(positions)}
        sources = set(positions).union(*(self.calls[i].inputs for i in positions))
        change = [0] * (len(positions) + 1)  # of the count, from one position to the next
        for source in sources:
            if source not in self.inside or not self.calls[source].carries_weights:
                continue
            start = index[source] + 1 if source in index else 0
            end = bisect.bisect_right(positions, self.last_reader[source])
            if start < end:
                change[start] += 1
                change[end] -= 1
        return list(itertools.accumulate(change[:-1]))

    def _refined(self, positions: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Divide a piece that is too big for an atom where the fewest tensors cross.

        In the end, recurrent layers and transformer blocks get atoms of their own.
        """
        crossing = self._crossing(positions)[1:]
        if crossing and self._is_too_big(positions):
            fewest = min(crossing)
            cuts = [n for n, count in enumerate(crossing, start=1) if count == fewest]
            for piece in _slices(positions, cuts):
                yield from self._refined(piece)
            return
        around_blocks = []
        for n, i in enumerate(positions):
            if self.calls[i].owns_weights and kinds.is_block(self.calls[i].layer):
                around_blocks += [n, n + 1]
        yield from _slices(positions, around_blocks)

    def _is_too_big(self, positions: Sequence[int]) -> bool:
        weighted = [self.calls[i] for i in positions if self.calls[i].owns_weights]
        if len({call.stride for call in weighted}) >= _SEVERAL_RESOLUTIONS:
            return True
        limit = min(max(self.weighted // 4, _FEW_WEIGHTED), _MANY_WEIGHTED)
        return len(weighted) > limit


def _slices(positions: Sequence[int], cuts: Sequence[int]) -> list[tuple[int, ...]]:
    """Divide a sequence before each of the given indices."""
    edges = sorted({0, *cuts, len(positions)})
    return [tuple(positions[start:end]) for start, end in itertools.pairwise(edges)]
