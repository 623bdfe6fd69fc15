"""Read the structure that people write into layer names: `block3_conv1`, `conv4_block2_out`."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Sequence

from keras_freeze.groups import kinds
from keras_freeze.groups.atoms import Atom
from keras_freeze.model_picture import is_composite

_LABEL = re.compile(
    r"(?P<prefix>|.*?[_\-./])"
    r"(?P<label>(?:block|stage|stack|layer|level|group|unit|module|cell|features?|mixed"
    r"|encoder|decoder|enc|dec|down|up|dark)_?\d+[a-z]?"
    r"|conv\d+[a-ce-z]?)"  # neither conv2d, nor conv_4 as in downsampling_conv_4
    r"(?=$|[_\-./])",
    re.IGNORECASE,
)
_Label = tuple[str, str]  # prefix and label


def labels(atoms: Sequence[Atom]) -> list[str | None]:
    """Return a label for each atom, None before the first one; or nothing if they don't help.

    They help if at least half of the atoms have one, there are several, and none comes back
    after another. Atoms without a label take that of the atom before them, or of the next one
    if the resolution drops among them. A prefix that all labels share is left out.

    Args:
        atoms: Sequence of `Atom` with weights, in order.

    Returns:
        List of str or None, as long as `atoms`; or an empty list.
    """
    found = [_own_label(atom) for atom in atoms]
    main = [(label, atom) for label, atom in zip(found, atoms, strict=True) if atom.main]
    of_main = [label for label, _ in main if label]
    anonymous_attention = any(atom.attends and not label for label, atom in main)
    if 2 * len(of_main) < len(main) or len(set(of_main)) < 2 or anonymous_attention:
        return []
    spread = _spread(atoms, [label if label in of_main else None for label in found])
    runs = [label for label, _ in itertools.groupby(spread)]
    if len(set(runs)) < len(runs):
        return []
    shared = common_prefix([re.split(r"(?<=[_\-./])", prefix) for prefix, _ in of_main])
    skip = len("".join(shared))
    return ["".join(label)[skip:] if label else None for label in spread]


def common_prefix(sequences: Sequence[Sequence[str]]) -> list[str]:
    """Return the words with which all sequences begin."""
    columns = itertools.takewhile(lambda words: len(set(words)) == 1, zip(*sequences, strict=False))
    return [words[0] for words in columns]


def _own_label(atom: Atom) -> _Label | None:
    """Return prefix and label of most of an atom's layers; `block4a`, `Block_4` are block4.

    The number in a name that Keras made carries no information, but the class may: each custom
    `ResidualBlock` layer is a block of the model.
    """
    found: list[_Label] = []
    for call in atom.calls:
        layer = call.layer
        if layer is None:
            continue
        if kinds.has_automatic_name(layer):
            if call.owns_weights and is_composite(layer):
                return "", str(layer.name)
        elif match := _LABEL.match(layer.name):
            number_only = re.sub(r"_|(?<=\d)[a-z]$", "", match["label"].lower())
            found.append((match["prefix"], number_only))
    return collections.Counter(found).most_common(1)[0][0] if found else None


def _spread(atoms: Sequence[Atom], found: Sequence[_Label | None]) -> list[_Label | None]:
    """Give atoms without a label a neighbour's; None is left only before the first."""
    spread = list(found)
    for is_known, part in itertools.groupby(range(len(atoms)), lambda n: found[n] is not None):
        gap = list(part)
        start, end = gap[0], gap[-1] + 1
        if is_known or (start == 0 and any(atom.main for atom in atoms[:end])):
            continue
        after = found[end] if end < len(atoms) else None
        before = spread[start - 1] if start else after
        opens_next = after is not None and any(_strides(atom) for atom in atoms[start:end])
        spread[start:end] = [after if opens_next else before] * len(gap)
    return spread


def _strides(atom: Atom) -> bool:
    """Tell whether a layer with weights does the striding, not a pooling layer."""
    for layer in atom.weighted:
        strides = getattr(layer, "strides", 1)
        if (max(strides) if isinstance(strides, tuple) else strides) > 1:
            return True
    return False
