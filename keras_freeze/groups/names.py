"""Name layer groups: after their layers where someone chose a name, else by position."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from keras_freeze.groups import kinds
from keras_freeze.groups.atoms import Atom
from keras_freeze.groups.call_graph import Call
from keras_freeze.groups.labels import common_prefix
from keras_freeze.model_picture import is_embedding

HEAD = "head"


def name_of(atom: Atom) -> str:
    """Name an atom after its one layer, or the user's name for the layer where it joins."""
    layers = list(atom.main or atom.weighted)
    layers = [layer for layer in layers if kinds.is_block(layer)] or layers
    last = atom.calls[-1].layer
    if len(layers) > 1 and all(map(is_embedding, layers)):
        return "embeddings"
    if len(layers) > 1 and last is not None and not kinds.has_automatic_name(last):
        return str(last.name)
    return str(layers[0].name)


def lead_name(atoms: Sequence[Atom]) -> str:
    """Name what comes before the first label: after its only layer, else `stem`."""
    main = [layer for atom in atoms for layer in atom.main]
    if len(main) > 1:
        return "embeddings" if any(map(is_embedding, main)) else "stem"
    return "stem" if not main or "stem" in main[0].name.lower() else str(main[0].name)


def embeddings_name(atoms: Sequence[Atom]) -> str:
    """`embeddings`, after the words that all names begin with, if there are any."""
    names = [layer.name.split("_") for atom in atoms for layer in atom.weighted]
    prefix = common_prefix(names) if len(names) > 1 else []
    return "_".join([*itertools.takewhile(lambda word: "embed" not in word, prefix), "embeddings"])


def unique_names(
    proposed: Sequence[str], is_automatic: Sequence[bool], calls: Sequence[Call]
) -> list[str]:
    """Return unique names; names that someone chose take precedence over names by position.

    Args:
        proposed: The name of each group after its layers, from input to head.
        is_automatic: Bool for each, whether Keras may have made and numbered it.
        calls: The call graph, whose layers' own names are not given to a group by position.
    """
    names: dict[int, str] = {}
    for n, name in enumerate(proposed):
        if not is_automatic[n]:
            is_last = n == len(proposed) - 1
            names[n] = free_name(name, {*names.values(), *([] if is_last else [HEAD])})
    layers = [call.layer for call in calls if call.layer is not None]
    given = {layer.name for layer in layers if not kinds.has_automatic_name(layer)}
    for n in range(len(proposed)):
        if n not in names:
            names[n] = free_name(f"group{n}", given.union(names.values()))
    return [names[n] for n in range(len(proposed))]


def free_name(name: str, taken: set[str]) -> str:
    """Return a name, with a number after it if it is taken."""
    candidate, suffix = name, 0
    while candidate in taken:
        suffix += 1
        candidate = f"{name}_{suffix}"
    return candidate
