"""Layer groups: a model as an ordered tuple of parts, from input to head.

Everything that freezes, unfreezes, sets rates or reports speaks of these groups. They are found
automatically or given by the user, and are the same for a nested backbone and the same backbone
inlined. Nothing here changes a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import keras

from keras_freeze.checks import as_value
from keras_freeze.groups import automatic, user_defined
from keras_freeze.groups.call_graph import Call, call_graph
from keras_freeze.groups.user_defined import Groups
from keras_freeze.model_picture import LayerGroup, ModelPicture, check_model, read_model


def layer_groups(model: keras.Model, groups: Groups | None = None) -> tuple[LayerGroup, ...]:
    """Divide a model into ordered layer groups, from input to head.

    Without `groups` the division follows the model: VGG16 with a new head gives `block1` to
    `block5` and `head`, an LSTM stack one group a recurrent layer, a transformer its
    embeddings and blocks. A residual block is never cut in half, and a nested backbone gives
    the same groups as the same backbone inlined.

    Args:
        model: `keras.Model`, built.
        groups: How to divide instead; default None, automatically. A mapping from group name
            to specification, a sequence of specifications (names are derived from them), or
            a callable `(layer) -> group name`. A specification is a regular expression,
            searched in each layer's name (anchor it with `^` and `$`), or a list of names of
            layers or nested models. Layers without weights that nothing matches follow the
            layer before them. Groups are ordered by their first layer with weights.

    Returns:
        Tuple of `LayerGroup`. Every weight in `model.weights` is in exactly one: a shared
        layer in the earliest, a weight that a model holds without a layer in the first.

    Raises:
        TypeError: if it is not a `keras.Model`.
        ValueError: if the model is not built or has no weights, or if a specification matches
            nothing, two match one layer, or none matches a layer with weights.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((8, 4)), keras.layers.LSTM(3, name="lstm"), keras.layers.Dense(2)]
        ... )
        >>> [group.name for group in layer_groups(model)]
        ['lstm', 'head']
        >>> [group.total_params for group in layer_groups(model)]
        [96, 8]
    """
    return picture_of(model, groups).groups


def picture_of(model: keras.Model, groups: Groups | None = None) -> ModelPicture:
    """Return the picture of a model, with its layer groups; raises as `layer_groups` does."""
    check_model("layer_groups", model)
    return with_groups(read_model(model), groups)


def with_groups(picture: ModelPicture, groups: Groups | None = None) -> ModelPicture:
    """Return a picture divided in a certain way: the same one if it is divided so already.

    Args:
        picture: The picture of a model.
        groups: As for `layer_groups`. Defaults to automatically.
    """
    division, model = as_value(groups), picture.model
    if picture.groups and picture.division == division:
        return picture
    if not picture.weights:
        raise ValueError(
            f"layer_groups(model=...) must have weights. Received: model={model.name!r}, which "
            "has none. There is nothing to freeze in it."
        )
    calls = call_graph(model)
    layers = _in_order(picture, (call.layer for call in calls if call.layer is not None))
    if groups is None:
        named = _planned(calls, layers)
    else:
        named = user_defined.assign(model, layers, groups)
    return dataclasses.replace(picture, groups=_assemble(picture, named), division=division)


def _planned(calls: Sequence[Call], layers: Sequence[keras.Layer]) -> dict[str, list[keras.Layer]]:
    """Put each layer where it is called first, which is where its weights count."""
    planned = automatic.plan(calls)
    name_of = {id(call): name for name, part in planned for call in part}
    home: dict[int, str] = {}
    for call in calls:
        home.setdefault(id(call.layer), name_of[id(call)])
    named: dict[str, list[keras.Layer]] = {name: [] for name, _ in planned}
    current = next(iter(named))
    for layer in layers:
        current = home.get(id(layer), current)
        named[current].append(layer)
    return named


def _in_order(picture: ModelPicture, called: Iterable[keras.Layer]) -> list[keras.Layer]:
    """Return the opened layers in the order of the graph; uncalled ones after their neighbour."""
    opened = {id(layer): layer for layer in picture.opened}
    order = {i: n for n, i in enumerate(dict.fromkeys(id(layer) for layer in called))}
    position, last = {}, -1
    for i in opened:
        last = order.get(i, last)
        position[i] = last
    return sorted(opened.values(), key=lambda layer: position[id(layer)])


def _assemble(
    picture: ModelPicture, named: Mapping[str, Sequence[keras.Layer]]
) -> tuple[LayerGroup, ...]:
    """Give each group its weights, each weight once; those of no layer go to the first."""
    left = {id(variable): variable for variable in picture.model.weights}
    variables = {
        name: [
            left.pop(id(weight.variable))
            for layer in layers
            for weight in picture.weights_in[id(layer)]
            if id(weight.variable) in left
        ]
        for name, layers in named.items()
    }
    first = next(iter(named))
    variables[first] = [*left.values(), *variables[first]]
    return tuple(
        LayerGroup(name, tuple(layers), tuple(variables[name])) for name, layers in named.items()
    )
