"""Divide a chain of atoms into named segments.

Names are taken from the layers where someone chose them, else from what the model does: its
resolutions (`stage2`), its attention blocks (`block7`), its layers (`lstm_1`). Atoms without
weights, norms and the like follow what stands before them.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Sequence

from keras_freeze.groups import kinds
from keras_freeze.groups.atoms import Atom
from keras_freeze.groups.labels import labels
from keras_freeze.groups.names import embeddings_name, lead_name, name_of
from keras_freeze.model_picture import is_composite

MANY_SEGMENTS = 8  # with more than this in a row, resolutions make better groups


@dataclasses.dataclass
class Segment:
    """A group in the making.

    Attributes:
        name: Str; another build may have another one where `has_automatic_name`.
        atoms: List of `Atom`, in order.
    """

    name: str
    atoms: list[Atom]

    @property
    def is_block(self) -> bool:
        """Whether it is a group whatever its resolution: attention, recurrence, embeddings."""
        return any(atom.block or atom.attends or atom.embeds for atom in self.atoms)

    @property
    def has_automatic_name(self) -> bool:
        """Whether it is named after a layer that Keras named and numbered."""
        layers = [layer for atom in self.atoms for layer in atom.weighted]
        return any(layer.name == self.name and kinds.has_automatic_name(layer) for layer in layers)


def segments_of(chain: Sequence[Atom]) -> list[Segment]:
    """Divide a chain of atoms into segments.

    Args:
        chain: Sequence of `Atom`, in order.

    Returns:
        List of `Segment`; every atom is in one. Empty if no atom has weights.
    """
    segments: list[Segment] = []
    run: list[Atom] = []
    for atom in chain:
        if atom.weighted and not atom.block:
            run.append(atom)
        elif atom.weighted:
            _close(segments, run, atom)
            run = []
    _close(segments, run, None)
    return _with_weightless(_by_resolution(segments), chain)


def _close(segments: list[Segment], run: list[Atom], block: Atom | None) -> None:
    """Add the segments of a run of plain atoms, and of the block that ends it."""
    if segments:
        norms = list(itertools.takewhile(lambda atom: atom.accompanies, run))
        segments[-1].atoms += norms
        run = run[len(norms) :]
    if block is None:
        segments += _plain(run)
    elif any(atom.main for atom in run):
        segments += _plain(run, before_attention=block.attends)
        segments.append(Segment(name_of(block), [block]))
    else:
        segments.append(Segment(name_of(block), [*run, block]))


def _plain(run: list[Atom], *, before_attention: bool = False) -> list[Segment]:
    main = [atom for atom in run if atom.main]
    embedding = [atom for atom in main if atom.embeds]
    several = sum(len(atom.weighted) for atom in run) > 1
    if embedding and (before_attention or (several and embedding == main)):
        end = next((n for n, atom in enumerate(run) if _is_block_after(atom, embedding)), len(run))
        return [Segment(embeddings_name(run[:end]), run[:end]), *_plain(run[end:])]
    return _by_label(run) or _by_attention(run) or _by_layer(run)


def _is_block_after(atom: Atom, embedding: Sequence[Atom]) -> bool:
    """Tell whether it is a custom block that follows the embeddings, such as linear attention."""
    is_after = atom.positions > embedding[-1].positions
    return is_after and any(map(is_composite, atom.main))


def _by_label(run: list[Atom]) -> list[Segment]:
    """Group by the labels in the layers' names, if they help."""
    segments = []
    labelled = zip(labels(run), run, strict=False)  # no labels at all if they don't
    for label, part in itertools.groupby(labelled, operator.itemgetter(0)):
        atoms = [atom for _, atom in part]
        segments.append(Segment(label or lead_name(atoms), atoms))
    return segments


def _by_attention(run: list[Atom]) -> list[Segment]:
    """Start a block at each attention atom; it takes the feed-forward atoms after it."""
    starts = [n for n, atom in enumerate(run) if atom.attends]
    if not starts:
        return []
    segments = _plain(run[: starts[0]], before_attention=True)
    for number, (start, end) in enumerate(itertools.pairwise([*starts, len(run)]), start=1):
        stop = start + 1
        while stop < end and all(map(kinds.is_pointwise, run[stop].main)):
            stop += 1
        segments.append(Segment(f"block{number}", run[start:stop]))
        segments += _plain(run[stop:end])
    return segments


def _by_layer(run: list[Atom]) -> list[Segment]:
    """Make each atom a segment of its own; norms follow the layer before them."""
    segments: list[Segment] = []
    for atom in run:
        if segments and atom.accompanies:
            segments[-1].atoms.append(atom)
        elif segments and not any(before.main for before in segments[-1].atoms):
            segments[-1] = Segment(name_of(atom), [*segments[-1].atoms, atom])
        else:
            segments.append(Segment(name_of(atom), [atom]))
    return segments


def _by_resolution(segments: list[Segment]) -> list[Segment]:
    """Replace long runs of plain segments by one per resolution, where the resolution changes."""
    merged: list[Segment] = []
    for is_block, part in itertools.groupby(segments, lambda segment: segment.is_block):
        run = list(part)
        merged += _stages(run) if not is_block and len(run) > MANY_SEGMENTS else run
    return merged


def _stages(run: list[Segment]) -> list[Segment]:
    atoms = [atom for segment in run for atom in segment.atoms]
    strided = zip(_without_dips([atom.stride for atom in atoms]), atoms, strict=True)
    stages: list[Segment] = []
    for _, part in itertools.groupby(strided, operator.itemgetter(0)):
        stages.append(Segment(f"stage{len(stages) + 1}", [atom for _, atom in part]))
    return stages if 1 < len(stages) < len(run) else run


def _without_dips(strides: Sequence[float]) -> list[float]:
    """Fill valleys: a projection of an earlier, finer tensor opens no new stage."""
    before = list(itertools.accumulate(strides, max))
    after = list(itertools.accumulate(reversed(strides), max))[::-1]
    return list(map(min, before, after))


def _with_weightless(segments: list[Segment], chain: Sequence[Atom]) -> list[Segment]:
    """Let atoms without weights follow the atom before them."""
    if not segments:
        return []
    home = {id(atom): segment for segment in segments for atom in segment.atoms}
    for segment in segments:
        segment.atoms = []
    current = segments[0]
    for atom in chain:
        current = home.get(id(atom), current)
        current.atoms.append(atom)
    return segments
