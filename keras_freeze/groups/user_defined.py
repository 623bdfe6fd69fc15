"""Layer groups that the user gives: patterns, lists of names, or a callable."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_freeze.checks import ArgumentError, did_you_mean, first_few
from keras_freeze.keras_internals.layers import own_variables, sublayers
from keras_freeze.model_picture import every_layer

Spec = str | Sequence[str]
Groups = Mapping[str, Spec] | Sequence[Spec] | Callable[[keras.Layer], "str | None"]


def assign(
    model: keras.Model, layers: Sequence[keras.Layer], groups: Groups
) -> dict[str, list[keras.Layer]]:
    """Put each layer into the group that was given for it.

    Args:
        model: `keras.Model`. For names of nested models, and for messages.
        layers: Sequence of `keras.Layer`: the opened layers, from input to head.
        groups: As `layer_groups` takes it.

    Returns:
        Layers by group name, in the order of each group's first layer with weights.

    Raises:
        ArgumentError: if `groups` is malformed, a specification matches nothing, two match one
            layer, or none matches a layer with weights.
    """
    if callable(groups):
        home = _by_callable(layers, groups)
    else:
        names = {n for _, spec in _entries(groups) if not isinstance(spec, str) for n in spec}
        layers = list(_opened_to(names - {layer.name for layer in layers}, layers))
        home = _by_spec(model, layers, groups)
    weighted = [layer for layer in layers if layer.weights]
    missing = [layer.name for layer in weighted if id(layer) not in home]
    if missing:
        raise _wrong(
            "cover every layer with weights",
            f"groups={groups!r}, which leaves out {', '.join(missing)} of model {model.name!r}",
            "Add them to a group, or a group for them.",
        )
    named: dict[str, list[keras.Layer]] = {home[id(layer)]: [] for layer in weighted}
    current = next(iter(named))
    for layer in layers:
        current = home.get(id(layer), current)
        named[current].append(layer)
    return named


def with_new_last(
    named: Mapping[str, list[keras.Layer]], pretrained: Collection[int]
) -> dict[str, list[keras.Layer]]:
    """Return groups with that of the new layers last.

    Args:
        named: Layers by group name.
        pretrained: Ids of the pretrained layers.

    Raises:
        ArgumentError: if a group mixes pretrained and new layers, or if the new ones are not
            exactly one group.
    """
    new = []
    for name, layers in named.items():
        weighted = [layer for layer in layers if layer.weights]
        outside = [layer.name for layer in weighted if id(layer) not in pretrained]
        if 0 < len(outside) < len(weighted):
            raise _wrong(
                "not mix pretrained and new layers where backbone= is given",
                f"group {name!r}, of whose {len(weighted)} layers with weights "
                f"{first_few(outside)} {'is' if len(outside) == 1 else 'are'} new",
                "Divide the group, or leave out backbone=: all groups but the last are then taken "
                "for pretrained.",
            )
        new += [name] if outside else []
    if len(new) != 1:
        raise _wrong(
            "hold all new layers in one group where backbone= is given",
            f"{len(new)} groups of new layers: {first_few(new)}",
            "Unite them: new layers train from the first step.",
        )
    return {**{name: named[name] for name in named if name not in new}, new[0]: named[new[0]]}


def _wrong(rule: str, received: str, advice: str) -> ArgumentError:
    return ArgumentError("layer_groups", "groups", rule, received=received, advice=advice)


def _opened_to(names: Collection[str], layers: Iterable[keras.Layer]) -> Iterator[keras.Layer]:
    """Yield layers, with the parts of those that hold a layer of one of these names."""
    for layer in layers:
        inside = {part.name for part in every_layer(layer)[1:]}
        if layer.name in names or inside.isdisjoint(names):
            yield layer
        elif own_variables(layer):
            raise _wrong(
                "name whole layers where a layer around them holds weights of its own",
                f"{first_few(sorted(inside & set(names)))}, inside layer {layer.name!r}",
                f"Name {layer.name!r}.",
            )
        else:
            yield from _opened_to(names, sublayers(layer))


def _by_callable(
    layers: Sequence[keras.Layer], function: Callable[[keras.Layer], str | None]
) -> dict[int, str]:
    home: dict[int, str] = {}
    for layer in layers:
        name = function(layer)
        if name is not None and not (isinstance(name, str) and name):
            raise _wrong(
                "return a group name, or None for a layer without weights",
                f"{name!r} for layer {layer.name!r}",
                "Check the callable.",
            )
        if name is not None and layer.weights:  # the others follow the layer before them
            home[id(layer)] = name
    return home


def _by_spec(
    model: keras.Model, layers: Sequence[keras.Layer], groups: Mapping[str, Spec] | Sequence[Spec]
) -> dict[int, str]:
    home: dict[int, str] = {}
    for name, spec in _entries(groups):
        for layer in _find(model, layers, spec):
            other = home.setdefault(id(layer), name)
            if other != name:
                raise _wrong(
                    "put each layer into one group",
                    f"groups={groups!r}, where {other!r} and {name!r} both match layer "
                    f"{layer.name!r}",
                    "Anchor the patterns with ^ and $, or list names.",
                )
    return home


def _entries(groups: Any) -> list[tuple[str, Spec]]:
    """Return names and specifications; the names are made up for a plain sequence."""
    if isinstance(groups, str) or not isinstance(groups, Mapping | Sequence) or not groups:
        raise _wrong(
            "be a mapping from name to specification, a sequence of specifications, or a callable",
            f"groups={groups!r}",
            'For one group, write ["pattern"].',
        )
    specs = list(groups.values()) if isinstance(groups, Mapping) else list(groups)
    for spec in specs:
        names = [spec] if isinstance(spec, str) else spec
        if not (isinstance(names, Sequence) and names and all(isinstance(n, str) for n in names)):
            raise _wrong(
                "hold regular expressions or lists of layer names",
                repr(spec),
                "Give str, or a list of str.",
            )
    if isinstance(groups, Mapping):
        return [(str(name), spec) for name, spec in groups.items()]
    names = [_made_up_name(spec, n) for n, spec in enumerate(specs)]
    unique = [name if names.count(name) == 1 else f"group{n}" for n, name in enumerate(names)]
    return list(zip(unique, specs, strict=True))


def _made_up_name(spec: Spec, n: int) -> str:
    """`^block1_` is named block1, a list of one name after it, anything else by its number."""
    text = re.sub(r"\.\*|[\^$]", "", spec) if isinstance(spec, str) else spec[0]
    is_plain = re.fullmatch(r"[\w\-./ ]+", text) and (isinstance(spec, str) or len(spec) == 1)
    return (is_plain and text.strip("_-./ ")) or f"group{n}"


def _find(model: keras.Model, layers: Sequence[keras.Layer], spec: Spec) -> list[keras.Layer]:
    """Return the layers that a specification matches, and raise unless one has weights."""
    if isinstance(spec, str):
        try:
            pattern = re.compile(spec)
        except re.error as error:
            raise _wrong(
                "hold valid regular expressions",
                f"{spec!r} ({error})",
                "Escape it, or give a list of names.",
            ) from error
        found = [layer for layer in layers if pattern.search(layer.name)]
    else:
        by_name = _by_name(model, layers)
        for name in spec:
            if name not in by_name:
                raise _no_match(model, layers, name, "no layer", list(by_name))
        found = [layer for name in dict.fromkeys(spec) for layer in by_name[name]]
    if not any(layer.weights for layer in found):
        what = "only layers without weights" if found else "no layer"
        raise _no_match(model, layers, spec, what, [layer.name for layer in layers])
    return found


def _by_name(model: keras.Model, layers: Sequence[keras.Layer]) -> dict[str, list[keras.Layer]]:
    """Return what a name means: a layer, or all layers inside one that is opened."""
    by_name: dict[str, list[keras.Layer]] = {}
    for layer in layers:
        by_name.setdefault(layer.name, []).append(layer)
    opened = {id(layer) for layer in layers}
    for outer in every_layer(model):
        if outer is not model and id(outer) not in opened:
            inside = [inner for inner in every_layer(outer) if id(inner) in opened]
            by_name.setdefault(outer.name, []).extend(inside)
    return by_name


def _no_match(
    model: keras.Model, layers: Sequence[keras.Layer], spec: Spec, what: str, names: Sequence[str]
) -> ArgumentError:
    weighted = ", ".join(layer.name for layer in layers if layer.weights)
    return _wrong(
        "match layers with weights",
        f"{spec!r}, which matches {what} of model {model.name!r}",
        f"{did_you_mean(str(spec), names)}Layers with weights: {weighted}.",
    )
