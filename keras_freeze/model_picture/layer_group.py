"""Layer groups, the parts of a model that freeze as one, and how they are found by name."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from keras_freeze.checks import ArgumentError, counted, did_you_mean
from keras_freeze.model_picture.layers import count_params


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LayerGroup:
    """A named part of a model.

    Attributes:
        name: Str, unique in its model, and the same in every build of its architecture.
        layers: Tuple of `keras.Layer`: nested models opened, composite layers whole, layers
            without weights included.
        variables: Tuple of `keras.Variable`: every weight of the model is in one group.
        first_layer: Str or None. The first layer of a group named by position, to show beside its
            name; None for a group with a name of its own. Keras may number this layer otherwise in
            the next build, so it is never stored.
    """

    name: str
    layers: tuple[keras.Layer, ...]
    variables: tuple[keras.Variable, ...]
    first_layer: str | None = None

    @property
    def total_params(self) -> int:
        """The number of parameters, trainable or not."""
        return count_params(self.variables)

    @property
    def label(self) -> str:
        """The name as it is shown: `"block1"`, or `"group3 (conv2d_7)"`."""
        return f"{self.name} ({self.first_layer})" if self.first_layer else self.name

    def __repr__(self) -> str:
        first_layer = f"first_layer={self.first_layer!r}, " if self.first_layer else ""
        return (
            f"LayerGroup(name={self.name!r}, {first_layer}layers={len(self.layers)}, "
            f"total_params={self.total_params:,})"
        )

    def _repr_html_(self) -> str:
        layers = ", ".join(html.escape(layer.name) for layer in self.layers)
        count = counted(len(self.layers), "layer")
        return (
            f"<details><summary><b>{html.escape(self.label)}</b>: {count}, "
            f"{self.total_params:,} parameters</summary>{layers}</details>"
        )


class GroupNames(tuple[str, ...]):
    """The names of a model's groups, from input to head, and their earlier names.

    In 0.1 a group named by position had the name of its first layer. It is still found by that
    name, unless another group has it.

    Attributes:
        first_layers: Tuple of str or None, one for each group, as in `LayerGroup`.
    """

    first_layers: tuple[str | None, ...] = ()

    @classmethod
    def of(cls, groups: Iterable[LayerGroup]) -> GroupNames:
        """Return the names of some groups."""
        found = tuple(groups)
        names = cls(group.name for group in found)
        names.first_layers = tuple(group.first_layer for group in found)
        return names


def known_group(owner: str, argument: str, name: Any, names: Sequence[str]) -> str:
    """Return a group's name, the last for `"head"`; raise in the name of `owner` if unknown.

    Example:
        >>> known_group("freeze", "groups", "head", ["block1", "top"])
        'top'
    """
    if name in names:
        return str(name)
    first_layers = _first_layers(names)
    called = [g for g, layer in first_layers.items() if name in (layer, f"{g} ({layer})")]
    if len(called) == 1:
        return called[0]
    if name == "head":
        return names[-1]
    now = f", which is now called {' or '.join(map(repr, called))}" if called else ""
    shown = [f"{n} ({first_layers[n]})" if n in first_layers else n for n in names]
    raise ArgumentError(
        owner,
        argument,
        "name layer groups of the model",
        received=f"{name!r}{now}",
        advice=f"{did_you_mean(str(name), [*names, *first_layers.values()])}"
        f"Available groups: {', '.join(shown)}.",
    )


def known_groups(
    owner: str, argument: str, given: Iterable[Any], names: Sequence[str]
) -> dict[str, str]:
    """Return the groups that names or patterns stand for, each with what named it.

    An entry that is not a group's name is a regular expression that has to match a whole one.

    Args:
        owner: Str, in whose name errors are raised.
        argument: Str, its argument.
        given: Names and patterns.
        names: All groups, from input to head.

    Returns:
        Dict from group to entry, in the order of the entries.

    Raises:
        ArgumentError: if an entry matches nothing, or if two stand for the same group.

    Example:
        >>> known_groups("freeze", "groups", ["block[12]", "head"], ["block1", "block2", "top"])
        {'block1': 'block[12]', 'block2': 'block[12]', 'top': 'head'}
    """
    found: dict[str, str] = {}
    for entry in given:
        matching = [] if entry in names else _full_matches(entry, names)
        for name in matching or [known_group(owner, argument, entry, names)]:
            if name in found:
                raise ArgumentError(
                    owner,
                    argument,
                    "name each group once",
                    received=f"{found[name]!r} and {entry!r}, which both stand for {name!r}",
                    advice="Remove one of the two.",
                )
            found[name] = str(entry)
    return found


def _first_layers(names: Sequence[str]) -> dict[str, str]:
    """Return the first layer of each group that is named by position."""
    layers = names.first_layers if isinstance(names, GroupNames) else ()
    return {name: layer for name, layer in zip(names, layers, strict=False) if layer}


def _full_matches(pattern: Any, names: Sequence[str]) -> list[str]:
    """Return the groups that a pattern matches, by their names or else by their first layers."""
    layers = _first_layers(names)
    try:
        by_name = {name for name in names if re.fullmatch(pattern, name)}
        by_layer = {name for name, layer in layers.items() if re.fullmatch(pattern, layer)}
    except (re.error, TypeError):
        return []
    if pattern in layers.values():
        by_layer = set()
    return [name for name in names if name in by_name | by_layer]
