"""Plan layer groups as a person would draw them: stem, blocks or stages, head.

Pure planning: a call graph goes in, names and calls come out.
"""

from __future__ import annotations

import collections
import dataclasses
import graphlib
from collections.abc import Collection, Sequence

from keras_freeze.groups import kinds
from keras_freeze.groups.atoms import Atom, chains
from keras_freeze.groups.call_graph import Call, distances, within
from keras_freeze.groups.names import HEAD, unique_names
from keras_freeze.groups.segments import Segment, segments_of


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedGroup:
    """A group before its layers are looked up.

    Attributes:
        name: Str, unique, and the same in every build of the architecture.
        first_layer: Str or None. The first layer of a group named by position.
        calls: Tuple of `Call`.
    """

    name: str
    first_layer: str | None
    calls: tuple[Call, ...]


def plan(calls: Sequence[Call], pretrained: Collection[int] | None = None) -> list[PlannedGroup]:
    """Divide a call graph into named groups, from input to head.

    A name that Keras may have made (`lstm_3`) is another one in the next build, so a group that
    would be named after such a layer is named by position, counted from 0: `group2`.

    Args:
        calls: Sequence of `Call`, as `call_graph` returns it.
        pretrained: Ids of the pretrained layers, if they are known: all others with weights are
            the head. Defaults to None.

    Returns:
        List of `PlannedGroup`; "head" is always the last, if there.
    """
    if pretrained is None:
        divided = calls
        parts = chains(calls)
        backbone, head = _split_head(calls, parts.trunk)
    else:
        divided, new = within(calls, pretrained)
        parts = chains(divided)
        backbone, head = list(parts.trunk), [Atom((), new)]
    segments = _merged(divided, [segments_of(chain) for chain in (backbone, *parts.towers)])
    if head:
        segments.append(Segment(HEAD, head))
    proposed = [segment.name for segment in segments]
    names = unique_names(proposed, [segment.has_automatic_name for segment in segments], calls)
    groups = []
    for segment, name in zip(segments, names, strict=True):
        first_layer = segment.name if segment.has_automatic_name else None
        own = tuple(call for atom in segment.atoms for call in atom.calls)
        groups.append(PlannedGroup(name, first_layer, own))
    return groups


# Order


def _merged(calls: Sequence[Call], queues: Sequence[Sequence[Segment]]) -> list[Segment]:
    """Merge chains of segments: farthest from the output first, the trunk where they tie.

    A segment waits for all that feed it, so that no group comes before what it reads from.
    """
    segments = [segment for queue in queues for segment in queue]
    # In layers with weights, up to the farthest output.
    to_end = distances(calls, range(len(calls)), lambda call: call.owns_weights)
    segment_of: dict[int, int] = {}
    rank = []
    for n, segment in enumerate(segments):
        own = [i for atom in segment.atoms for i in atom.positions if calls[i].owns_weights]
        segment_of.update(dict.fromkeys(own, n))
        rank.append((-min(to_end[i] for i in own), n))
    sorter = graphlib.TopologicalSorter(_feeds(calls, segment_of))
    sorter.prepare()
    ready: list[int] = []
    order: list[int] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=rank.__getitem__)
        order.append(ready.pop(0))
        sorter.done(order[-1])
    return [segments[n] for n in order]


def _feeds(calls: Sequence[Call], segment_of: dict[int, int]) -> dict[int, set[int]]:
    """Return for each segment the others that it depends on."""
    feeds: dict[int, set[int]] = {n: set() for n in segment_of.values()}
    upstream: list[set[int]] = []  # of each call, the segments before it
    for i, call in enumerate(calls):
        before: set[int] = set()
        for source in call.inputs:
            before |= upstream[source]
            if source in segment_of:
                before.add(segment_of[source])
        upstream.append(before)
        if i in segment_of:
            feeds[segment_of[i]] |= before - {segment_of[i]}
    return feeds


# Head


def _split_head(calls: Sequence[Call], trunk: Sequence[Atom]) -> tuple[list[Atom], list[Atom]]:
    """Cut the trunk before its head: its last dense layers, or where the tasks branch."""
    weighted = [n for n, atom in enumerate(trunk) if atom.weighted]
    start = len(trunk)
    for n in reversed(weighted):
        if not _may_be_head(trunk[n]):
            break
        start = n
    dense = [n for n in weighted if n >= start and trunk[n].main]
    if not dense:
        start = len(trunk)
    elif start == weighted[0]:  # nothing but dense layers
        start = dense[-1]
    start = min(start, _task_split(calls, trunk))
    if not any(atom.weighted for atom in trunk[:start]):
        start = 0
    return list(trunk[:start]), list(trunk[start:])


def _may_be_head(atom: Atom) -> bool:
    is_residual = len(atom.weighted) > 1 and (atom.rank is None or atom.rank > 2)
    if is_residual:
        return False
    for call in atom.calls:
        on_vectors = call.rank == 2 or call.is_pooled
        if call.owns_weights and not kinds.is_head_like(call.layer, on_vectors=on_vectors):
            return False
    return True


def _task_split(calls: Sequence[Call], trunk: Sequence[Atom]) -> int:
    """Return the index of the atom where tasks branch permanently, or the trunk's length.

    Tasks are outputs that have weights of their own; a feature pyramid has many outputs and
    no tasks. A branch with more weights than all before it is more than a head.
    """
    reached: list[set[int]] = [{i} if call.is_output else set() for i, call in enumerate(calls)]
    for i in reversed(range(len(calls))):
        for source in calls[i].inputs:
            reached[source] |= reached[i]
    weights_of_task: collections.Counter[int] = collections.Counter()
    start = len(trunk)
    for n, atom in enumerate(trunk):
        for i in atom.positions:
            if calls[i].owns_weights and len(reached[i]) == 1:
                weights_of_task.update(reached[i])
                start = min(start, n)
    before = sum(len(atom.weighted) for atom in trunk[:start])
    is_split = len(weights_of_task) > 1 and max(weights_of_task.values()) <= before
    return start if is_split else len(trunk)
