"""Read the structure that people write into layer names: `block3_conv1`, `conv4_block2_out`."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Sequence

from keras_freeze.groups import kinds
from keras_freeze.groups.atoms import Atom

_LABEL = re.compile(
    r"(?P<prefix>|.*?[_\-./])"
    r"(?P<label>(?:block|stage|stack|layer|level|group|unit|module|cell|features?|mixed"
    r"|encoder|decoder|enc|dec|down|up|dark)_?\d+[a-z]?"
    r"|conv\d+[a-ce-z]?)"  # neither conv2d, nor conv_4 as in downsampling_conv_4
    r"(?=$|[_\-./])",
    re.IGNORECASE,
)


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
    main = [n for n, atom in enumerate(atoms) if not atom.accompanies]
    of_main = {found[n] for n in main} - {None}
    known = [n for n in main if found[n]]
    anonymous_attention = any(atoms[n].attends and not found[n] for n in main)
    if 2 * len(known) < len(main) or len(of_main) < 2 or anonymous_attention:
        return []
    found = _spread(atoms, [label if label in of_main else None for label in found])
    runs = [label for label, _ in itertools.groupby(found)]
    if len(set(runs)) < len(runs):
        return []
    skip = len("".join(common_prefix([_words(label[0]) for label in of_main if label])))
    return [(label[0] + label[1])[skip:] if label else None for label in found]


def common_prefix(sequences: Sequence[Sequence[str]]) -> list[str]:
    """Return the words with which all sequences begin."""
    columns = itertools.takewhile(lambda words: len(set(words)) == 1, zip(*sequences, strict=False))
    return [words[0] for words in columns]


def _words(prefix: str) -> list[str]:
    return re.split(r"(?<=[_\-./])", prefix)


def _own_label(atom: Atom) -> tuple[str, str] | None:
    """Return prefix and label of most of an atom's layers; `block4a`, `Block_4` are block4."""
    for layer in atom.weighted:
        if kinds.is_composite(layer) and kinds.has_automatic_name(layer):
            return "", str(layer.name)  # residual_block_3 is a block, whatever its number
    names = [call.layer.name for call in atom.calls if call.layer is not None]
    found = [match for name in names if (match := _LABEL.match(name))]
    pairs = [(m["prefix"], re.sub(r"_|(?<=\d)[a-z]$", "", m["label"].lower())) for m in found]
    return collections.Counter(pairs).most_common(1)[0][0] if pairs else None


def _spread(
    atoms: Sequence[Atom], found: Sequence[tuple[str, str] | None]
) -> list[tuple[str, str] | None]:
    """Give atoms without a label a neighbour's; None is left only before the first."""
    spread = list(found)
    for is_known, part in itertools.groupby(range(len(atoms)), lambda n: found[n] is not None):
        gap = list(part)
        start, end = gap[0], gap[-1] + 1
        if is_known or (start == 0 and not all(atoms[n].accompanies for n in gap)):
            continue
        after = found[end] if end < len(atoms) else None
        before = spread[start - 1] if start else after
        opens_next = after is not None and any(_strides(atoms[n]) for n in gap)
        spread[start:end] = [after if opens_next else before] * len(gap)
    return spread


def _strides(atom: Atom) -> bool:
    """Tell whether a layer with weights does the striding, not a pooling layer."""
    strides = [getattr(layer, "strides", 1) for layer in atom.weighted]
    return any(max(s) > 1 if isinstance(s, tuple) else s > 1 for s in strides)
