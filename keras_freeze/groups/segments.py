"""Divide a chain of atoms into named segments.

Names are taken from the layers where someone chose them, else from what the model does: its
resolutions (`stage2`), its attention blocks (`block7`), its layers (`lstm_1`). Atoms without
weights, norms and the like follow what stands before them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import keras

from keras_freeze.groups import kinds
from keras_freeze.groups.atoms import Atom
from keras_freeze.groups.labels import common_prefix, labels

MANY_SEGMENTS = 8  # with more than this in a row, resolutions make better groups


@dataclasses.dataclass
class Segment:
    """A group in the making.

    Attributes:
        name: Str.
        atoms: List of `Atom`, in order.
    """

    name: str
    atoms: list[Atom]

    @property
    def is_block(self) -> bool:
        """Whether it is a group whatever its resolution: attention, recurrence, embeddings."""
        return any(atom.block or atom.attends or _embeds(atom) for atom in self.atoms)


def segments_of(chain: Sequence[Atom]) -> list[Segment]:
    """Divide a chain of atoms into segments.

    Args:
        chain: Sequence of `Atom`, in order.

    Returns:
        List of `Segment`; every atom is in one. Empty if no atom has weights.
    """
    segments: list[Segment] = []
    for run, block in _runs(atom for atom in chain if atom.weighted):
        while segments and run and run[0].accompanies:
            segments[-1].atoms.append(run.pop(0))
        if block is None:
            segments += _plain(run)
        elif all(atom.accompanies for atom in run):
            segments.append(Segment(_name(block), [*run, block]))
        else:
            segments += _plain(run, before_attention=block.attends)
            segments.append(Segment(_name(block), [block]))
    return _with_weightless(_by_resolution(segments), chain)


def _runs(atoms: Iterable[Atom]) -> list[tuple[list[Atom], Atom | None]]:
    """Group atoms into runs of plain ones, each with the block that ends it."""
    runs: list[tuple[list[Atom], Atom | None]] = []
    run: list[Atom] = []
    for atom in atoms:
        if atom.block:
            runs.append((run, atom))
            run = []
        else:
            run.append(atom)
    return [*runs, (run, None)]


def _plain(run: list[Atom], *, before_attention: bool = False) -> list[Segment]:
    main = [atom for atom in run if not atom.accompanies]
    only_embeddings = all(map(_embeds, main)) and sum(len(atom.weighted) for atom in run) > 1
    if main and (only_embeddings or (before_attention and any(map(_embeds, main)))):
        return [Segment(_embeddings_name(run), run)]
    return _by_label(run) or _by_attention(run) or _by_layer(run)


def _embeds(atom: Atom) -> bool:
    return any(kinds.is_embedding(layer) for layer in atom.weighted)


def _embeddings_name(atoms: Sequence[Atom]) -> str:
    """`embeddings`, after the words that all names begin with, if there are any."""
    names = [layer.name.split("_") for atom in atoms for layer in atom.weighted]
    prefix = common_prefix(names) if len(names) > 1 else []
    return "_".join([*itertools.takewhile(lambda word: "embed" not in word, prefix), "embeddings"])


def _by_label(run: list[Atom]) -> list[Segment]:
    """Group by the labels in the layers' names, if they help."""
    labelled = zip(labels(run), run, strict=False)
    return [
        Segment(label or _lead_name(atoms), atoms)
        for label, part in itertools.groupby(labelled, lambda pair: pair[0])
        for atoms in [[atom for _, atom in part]]
    ]


def _lead_name(atoms: Sequence[Atom]) -> str:
    """Name what comes before the first label: after its only layer, else `stem`."""
    main = _main_layers(atoms)
    if len(main) > 1 and any(kinds.is_embedding(layer) for layer in main):
        return "embeddings"
    is_stem = len(main) != 1 or "stem" in main[0].name.lower()
    return "stem" if is_stem else str(main[0].name)


def _main_layers(atoms: Iterable[Atom]) -> list[keras.Layer]:
    layers = (layer for atom in atoms for layer in atom.weighted)
    return [layer for layer in layers if not kinds.accompanies(layer)]


def _by_attention(run: list[Atom]) -> list[Segment]:
    """Start a block at each attention atom; it takes the feed-forward atoms after it."""
    starts = [n for n, atom in enumerate(run) if atom.attends]
    if not starts:
        return []
    segments = _plain(run[: starts[0]], before_attention=True)
    for number, (start, end) in enumerate(itertools.pairwise([*starts, len(run)]), start=1):
        stop = next((n for n in range(start + 1, end) if not _feeds_forward(run[n])), end)
        segments.append(Segment(f"block{number}", run[start:stop]))
        segments += _plain(run[stop:end])
    return segments


def _feeds_forward(atom: Atom) -> bool:
    return atom.accompanies or all(map(kinds.is_pointwise, _main_layers([atom])))


def _by_layer(run: list[Atom]) -> list[Segment]:
    """Make each atom a segment of its own; norms follow the layer before them."""
    segments: list[Segment] = []
    for atom in run:
        if segments and atom.accompanies:
            segments[-1].atoms.append(atom)
        elif segments and all(before.accompanies for before in segments[-1].atoms):
            segments[-1] = Segment(_name(atom), [*segments[-1].atoms, atom])
        else:
            segments.append(Segment(_name(atom), [atom]))
    return segments


def _name(atom: Atom) -> str:
    """Name an atom after its one layer, or the name someone gave to where it joins."""
    layers = _main_layers([atom]) or list(atom.weighted)
    layers = [layer for layer in layers if kinds.is_block(layer)] or layers
    if len(layers) > 1 and all(map(kinds.is_embedding, layers)):
        return "embeddings"
    last = atom.calls[-1].layer
    if len(layers) > 1 and last is not None and not kinds.has_automatic_name(last):
        return str(last.name)
    return str(layers[0].name)


def _by_resolution(segments: list[Segment]) -> list[Segment]:
    """Replace long runs of plain segments by one a resolution, where the resolution changes."""
    merged: list[Segment] = []
    for is_block, part in itertools.groupby(segments, lambda segment: segment.is_block):
        run = list(part)
        merged += _stages(run) if not is_block and len(run) > MANY_SEGMENTS else run
    return merged


def _stages(run: list[Segment]) -> list[Segment]:
    atoms = [atom for segment in run for atom in segment.atoms]
    strided = zip(_without_dips([atom.stride for atom in atoms]), atoms, strict=True)
    stages = [
        Segment(f"stage{number}", [atom for _, atom in part])
        for number, (_, part) in enumerate(itertools.groupby(strided, lambda pair: pair[0]), 1)
    ]
    return stages if 1 < len(stages) < len(run) else run


def _without_dips(strides: Sequence[float]) -> list[float]:
    """Fill valleys: a projection of an earlier, finer tensor opens no new stage."""
    before = list(itertools.accumulate(strides, max))
    after = list(itertools.accumulate(reversed(strides), max))[::-1]
    return [min(pair) for pair in zip(before, after, strict=True)]


def _with_weightless(segments: list[Segment], chain: Sequence[Atom]) -> list[Segment]:
    owner = {id(atom): n for n, segment in enumerate(segments) for atom in segment.atoms}
    current, placed = 0, [list[Atom]() for _ in segments]
    for atom in chain:
        current = owner.get(id(atom), current)
        if segments:
            placed[current].append(atom)
    return [Segment(s.name, atoms) for s, atoms in zip(segments, placed, strict=True)]
