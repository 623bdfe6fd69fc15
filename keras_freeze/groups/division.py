"""Layer groups: a model as an ordered tuple of parts, from input to head.

Everything that freezes, unfreezes, sets rates or reports refers to these groups. They are found
automatically or given by the user, and are the same for a nested backbone and the same backbone
inlined. Nothing here changes a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras

from keras_freeze.checks import ArgumentError, as_value
from keras_freeze.groups import automatic, user_defined
from keras_freeze.groups.call_graph import Call, call_graph
from keras_freeze.groups.user_defined import Groups
from keras_freeze.model_picture import LayerGroup, ModelPicture, check_model, read_model


def layer_groups(model: keras.Model, groups: Groups | None = None) -> tuple[LayerGroup, ...]:
    """Divide a model into ordered layer groups, from input to head.

    Without `groups` the division follows the model: VGG16 with a new head gives `block1` to
    `block5` and `head`, a stack of recurrent layers one group per layer, a transformer its
    embeddings and blocks. A residual block is never cut in half, and a nested backbone gives the
    same groups as the same backbone inlined.

    Names are the same in every build of an architecture. A layer that nobody named (`lstm_3`)
    gets another number from Keras in each build, so a group that would be named after such a layer
    is named by position, counted from 0: `layer_groups(model)[2]` is `group2`. Wherever a group is
    named, `lstm_3` is understood too, as long as only one group begins with it.

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
        ValueError: if the model is not built or has no layers with weights, or if a
            specification matches nothing, two match one layer, or none matches a layer with
            weights.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((8, 4)), keras.layers.LSTM(3, name="low"), keras.layers.Dense(2)]
        ... )
        >>> [group.name for group in layer_groups(model)]
        ['low', 'head']
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
    if not any(layer.weights for layer in picture.opened):
        raise ArgumentError(
            "layer_groups",
            "model",
            "have weights",
            received=f"model={model.name!r}, whose layers have none",
            advice="There is nothing to freeze in it.",
        )
    calls = call_graph(model)
    layers = _in_order(picture.opened, calls)
    if groups is not None:
        found = _assemble(picture, user_defined.assign(model, layers, groups), {})
    else:
        planned = automatic.plan(calls)
        first_layers = {group.name: group.first_layer for group in planned}
        found = _assemble(picture, _planned(calls, planned, layers), first_layers)
    return dataclasses.replace(picture, groups=found, division=division)


def _in_order(opened: Sequence[keras.Layer], calls: Sequence[Call]) -> list[keras.Layer]:
    """Return layers in the order of their first calls; uncalled ones follow their neighbour."""
    first_call: dict[int, int] = {}
    for n, call in enumerate(calls):
        first_call.setdefault(id(call.layer), n)
    position: dict[int, int] = {}
    last = -1
    for layer in opened:
        last = first_call.get(id(layer), last)
        position[id(layer)] = last
    return sorted(opened, key=lambda layer: position[id(layer)])


def _planned(
    calls: Sequence[Call], planned: Sequence[automatic.PlannedGroup], layers: Sequence[keras.Layer]
) -> dict[str, list[keras.Layer]]:
    """Put each layer where it is called first, which is where its weights count."""
    name_of = {id(call): group.name for group in planned for call in group.calls}
    home: dict[int, str] = {}
    for call in calls:
        home.setdefault(id(call.layer), name_of[id(call)])
    named: dict[str, list[keras.Layer]] = {group.name: [] for group in planned}
    current = planned[0].name
    for layer in layers:
        current = home.get(id(layer), current)
        named[current].append(layer)
    return named


def _assemble(
    picture: ModelPicture,
    named: Mapping[str, Sequence[keras.Layer]],
    first_layers: Mapping[str, str | None],
) -> tuple[LayerGroup, ...]:
    """Give each group its weights, each weight once; those of no layer go to the first."""
    left = {id(variable): variable for variable in picture.model.weights}
    found: dict[str, list[keras.Variable]] = {}
    for name, layers in named.items():
        found[name] = []
        for layer in layers:
            for weight in picture.weights_in[id(layer)]:
                if id(weight.variable) in left:
                    found[name].append(left.pop(id(weight.variable)))
    outside = tuple(left.values())
    groups = []
    for name, layers in named.items():
        variables = (*outside, *found[name])
        groups.append(LayerGroup(name, tuple(layers), variables, first_layers.get(name)))
        outside = ()
    return tuple(groups)
