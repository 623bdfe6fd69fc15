"""Plan layer groups as a person would draw them: stem, blocks or stages, head.

Pure planning: a call graph goes in, names and calls come out.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterator, Sequence

from keras_freeze.groups import kinds
from keras_freeze.groups.atoms import Atom, chains
from keras_freeze.groups.call_graph import Call
from keras_freeze.groups.segments import Segment, segments_of

HEAD = "head"


def plan(calls: Sequence[Call]) -> list[tuple[str, list[Call]]]:
    """Divide a call graph into named groups, from input to head.

    Args:
        calls: Sequence of `Call`, as `graph.call_graph` returns it.

    Returns:
        List of (name, calls). Names are unique; "head" is always the last, if there.
    """
    parts = chains(calls)
    backbone, head = _split_head(calls, list(parts.trunk))
    segments = _merged(calls, [segments_of(chain) for chain in (backbone, *parts.towers)])
    if head:
        segments.append(Segment(HEAD, head))
    names = _unique([segment.name for segment in segments], reserved=HEAD)
    return [
        (name, [call for atom in segment.atoms for call in atom.calls])
        for name, segment in zip(names, segments, strict=True)
    ]


def _merged(calls: Sequence[Call], queues: Sequence[Sequence[Segment]]) -> list[Segment]:
    """Merge chains of segments: farthest from the output first, the trunk where they tie.

    A segment waits for all that feed it, so that no group comes before what it reads from.
    """
    segments = [segment for queue in queues for segment in queue]
    owners = [_owners(segment) for segment in segments]
    distances = _distances(calls)
    rank = [(-min(distances[i] for i in own), n) for n, own in enumerate(owners)]
    sorter = graphlib.TopologicalSorter(dict.fromkeys(range(len(segments)), ()))
    for n, feeds in _feeds(calls, owners):
        sorter.add(n, *feeds)
    sorter.prepare()
    ready: list[int] = []
    order: list[int] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=rank.__getitem__)
        order.append(ready.pop(0))
        sorter.done(order[-1])
    return [segments[n] for n in order]


def _feeds(
    calls: Sequence[Call], owners: Sequence[Sequence[int]]
) -> Iterator[tuple[int, frozenset[int]]]:
    """Yield for each weighted call its segment, and the other segments that it depends on."""
    segment_of = {i: n for n, own in enumerate(owners) for i in own}
    upstream: list[frozenset[int]] = []
    for i, call in enumerate(calls):
        read = frozenset(segment_of[j] for j in call.inputs if j in segment_of)
        upstream.append(read.union(*(upstream[j] for j in call.inputs)))
        if i in segment_of:
            yield segment_of[i], upstream[i] - {segment_of[i]}


def _distances(calls: Sequence[Call]) -> list[int]:
    """Return how many layers with weights lie between each call and the farthest output."""
    distances = [0] * len(calls)
    for i in reversed(range(len(calls))):
        for source in calls[i].inputs:
            distances[source] = max(distances[source], distances[i] + calls[i].owns_weights)
    return distances


def _owners(segment: Segment) -> list[int]:
    return [
        position
        for atom in segment.atoms
        for position, call in zip(atom.positions, atom.calls, strict=True)
        if call.owns_weights
    ]


def _unique(names: Sequence[str], reserved: str) -> list[str]:
    taken: set[str] = set()
    for n, name in enumerate(names):
        is_last = n == len(names) - 1
        candidate, suffix = name, 0
        while candidate in taken or (candidate == reserved and not is_last):
            suffix += 1
            candidate = f"{name}_{suffix}"
        taken.add(candidate)
        names = [*names[:n], candidate, *names[n + 1 :]]
    return list(names)


# Head


def _split_head(calls: Sequence[Call], trunk: list[Atom]) -> tuple[list[Atom], list[Atom]]:
    """Cut the trunk before its head: its last dense layers, or where the tasks part."""
    weighted = [n for n, atom in enumerate(trunk) if atom.weighted]
    start = len(trunk)
    for n in reversed(weighted):
        if not _may_be_head(trunk[n]):
            break
        start = n
    dense = [n for n in weighted if n >= start and not trunk[n].accompanies]
    if not dense:
        start = len(trunk)
    elif start == weighted[0]:
        start = dense[-1]
    start = min(start, _task_split(calls, trunk))
    if not any(atom.weighted for atom in trunk[:start]):
        start = 0
    return trunk[:start], trunk[start:]


def _may_be_head(atom: Atom) -> bool:
    is_residual = len(atom.weighted) > 1 and (atom.rank is None or atom.rank > 2)
    own = [call for call in atom.calls if call.owns_weights]
    return not is_residual and all(
        kinds.is_head_like(call.layer, on_vectors=call.rank == 2 or call.is_pooled) for call in own
    )


def _task_split(calls: Sequence[Call], trunk: list[Atom]) -> int:
    """Return the index of the atom where tasks part for good, or the trunk's length.

    Tasks are outputs that have weights of their own; a feature pyramid has many outputs and
    no tasks. A branch with more weights than all before it is more than a head.
    """
    reached = [1 << i if call.is_output else 0 for i, call in enumerate(calls)]
    for i in reversed(range(len(calls))):
        for source in calls[i].inputs:
            reached[source] |= reached[i]
    private: dict[int, int] = {}
    start = len(trunk)
    for n, atom in enumerate(trunk):
        for i in atom.positions:
            if calls[i].owns_weights and reached[i].bit_count() == 1:
                private[reached[i]] = private.get(reached[i], 0) + 1
                start = min(start, n)
    before = sum(len(atom.weighted) for atom in trunk[:start])
    is_split = len(private) > 1 and max(private.values()) <= before
    return start if is_split else len(trunk)
