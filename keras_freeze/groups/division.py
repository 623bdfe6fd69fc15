"""Layer groups: a model as an ordered tuple of parts, from input to head.

Everything that freezes, unfreezes, sets rates or reports refers to these groups. They are found
automatically or given by the user, and are the same for a nested backbone and the same backbone
inlined, where both are told what is pretrained. Nothing here changes a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import keras

from keras_freeze.checks import ArgumentError, as_value
from keras_freeze.groups import automatic, pretrained, user_defined
from keras_freeze.groups.call_graph import Call, call_graph
from keras_freeze.groups.names import free_name
from keras_freeze.groups.pretrained import Backbone, Names, names_of
from keras_freeze.groups.user_defined import Groups
from keras_freeze.model_picture import (
    LayerGroup,
    ModelPicture,
    check_model,
    opened_layers,
    read_model,
    teacher_of,
)


def layer_groups(
    model: keras.Model, groups: Groups | None = None, *, backbone: Backbone | None = None
) -> tuple[LayerGroup, ...]:
    """Divide a model into ordered layer groups, from input to head.

    Without `groups` the division follows the model: VGG16 with a new head gives `block1` to
    `block5` and `head`, a stack of recurrent layers one group per layer, a transformer its
    embeddings and blocks. A residual block is never cut in half, and with the same `backbone` a
    nested one gives the same groups as an inlined one.

    Names are the same in every build of an architecture. A layer that nobody named (`lstm_3`)
    gets another number from Keras in each build, so a group that would be named after such a layer
    is named by position, counted from 0: `layer_groups(model)[2]` is `group2`. Wherever a group is
    named, `lstm_3` is understood too, as long as only one group begins with it.

    The last group holds what is new, and all others what is pretrained. `backbone` tells them
    apart. Where it isn't given, the model may show it: the backbone of a KerasHub task, or nested
    models that are fed by the model's inputs alone, do not make its output, and have at least as
    many layers with weights as all that is left, are pretrained. Otherwise the last group is what
    stands at the end.

    Args:
        model: `keras.Model`, built.
        groups: How to divide instead; default None, automatically. A mapping from group name
            to specification, a sequence of specifications (names are derived from them), or
            a callable `(layer) -> group name`. A specification is a regular expression,
            searched in each layer's name (anchor it with `^` and `$`), or a list of names of
            layers or nested models. Layers without weights that nothing matches follow the
            layer before them. Groups are ordered by their first layer with weights.
        backbone: The pretrained part, if it is to be said: a `keras.Model` or layer that the model
            was built from, nested or inlined; the name of a layer or nested model; a regular
            expression, searched in such names; a mapping from a name to the names of its layers; or
            several of these. Everything else is new, wherever it stands. Defaults to None.

    Returns:
        Tuple of `LayerGroup`. Every weight in `model.weights` is in exactly one: a shared
        layer in the earliest, a weight that a model holds without a layer in the first.

    Raises:
        TypeError: if it is not a `keras.Model`.
        ValueError: if the model is not built or has no layers with weights; if a
            specification matches nothing, two match one layer, or none matches a layer with
            weights; if `backbone` names nothing or everything, or a group of `groups` mixes
            pretrained and new layers.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((8, 4)), keras.layers.LSTM(3, name="low"), keras.layers.Dense(2)]
        ... )
        >>> [group.name for group in layer_groups(model)]
        ['low', 'head']
        >>> [group.total_params for group in layer_groups(model)]
        [96, 8]
    """
    return picture_of(model, groups, backbone).groups


def picture_of(
    model: keras.Model,
    groups: Groups | None = None,
    backbone: Backbone | Names | None = None,
    *,
    lora_base_trains: bool = False,
) -> ModelPicture:
    """Return the picture of a model, with its layer groups; arguments and errors as there."""
    check_model("layer_groups", model)
    names = names_of("layer_groups", backbone)
    return with_groups(read_model(model, names, lora_base_trains=lora_base_trains), groups)


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
    teacher = teacher_of(model)
    # A distiller trains its student and nothing else: those are its groups, after the teacher.
    calls = call_graph(model if teacher is None else model.student)
    apart = () if teacher is None else opened_layers(teacher)
    ids = {id(layer) for layer in apart}
    layers = [x for x in _in_order(picture.opened, calls) if id(x) not in ids]
    part = None
    if picture.backbone is not None:
        part = pretrained.given(picture, calls)
    elif groups is None:
        part = pretrained.found(picture, calls)
    inside = None if part is None else {id(layer) for layer in part.layers}
    if groups is not None:
        named = user_defined.assign(model, layers, groups)
        if part is not None:
            inside = {id(x) for layer in part.layers for x in picture.layers_in[id(layer)]}
            named = user_defined.with_new_last(named, inside)
        found = _assemble(picture, _with_teacher(named, apart), {})
    else:
        planned = automatic.plan(calls, inside)
        first_layers = {group.name: group.first_layer for group in planned}
        named = _planned(planned, layers, inside)
        found = _assemble(picture, _with_teacher(named, apart), first_layers)
    divided = dataclasses.replace(picture, groups=found, division=division)
    part = part or pretrained.assumed(divided, calls)
    return dataclasses.replace(divided, pretrained=part)


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
    planned: Sequence[automatic.PlannedGroup],
    layers: Sequence[keras.Layer],
    inside: Collection[int] | None,
) -> dict[str, list[keras.Layer]]:
    """Put each layer where it is called first, which is where its weights count.

    One without a planned call follows the layer before it, unless it has weights and `inside`, the
    ids of the pretrained layers, says otherwise.
    """
    home: dict[int, str] = {}
    for group in planned:
        for call in group.calls:
            if call.owns_weights:
                home[id(call.layer)] = group.name
            home.setdefault(id(call.layer), group.name)
    named: dict[str, list[keras.Layer]] = {group.name: [] for group in planned}
    current, last = planned[0].name, planned[-1].name
    for layer in layers:
        current = home.get(id(layer), current)
        if inside is not None and layer.weights and (current == last) == (id(layer) in inside):
            current = last if current != last else planned[-2].name
        named[current].append(layer)
    return named


def _with_teacher(
    named: Mapping[str, list[keras.Layer]], teacher: Sequence[keras.Layer]
) -> Mapping[str, list[keras.Layer]]:
    """Put a distiller's teacher before the groups of its student, as a group of its own."""
    return {free_name("teacher", set(named)): list(teacher), **named} if teacher else named


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
