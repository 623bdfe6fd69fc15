"""Plan the `trainable` flags that a selection comes down to. Pure: the engine sets them.

Keras keeps two flags. A variable's own decides whether the optimizer updates it; a layer's
decides whether a `BatchNormalization` updates its moving statistics. They are planned
together here, for the whole model, so that no half-set state is left behind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import keras

from keras_freeze.checks import ArgumentError
from keras_freeze.groups import LayerGroup, layer_groups
from keras_freeze.keras_internals.layers import own_variables, sublayers
from keras_freeze.model_picture import every_layer, is_batch_norm, weights_of
from keras_freeze.policies.selection import Selection, everything_in

BatchNormMode = Literal["frozen", "follow", "statistics", "train"]


@dataclasses.dataclass(frozen=True, eq=False)
class Flags:
    """The flags to set on a model.

    Attributes:
        variables: Pairs of `keras.Variable` and bool: what the optimizer updates.
        layers: Pairs of `keras.Layer` and bool: the layers' own flags.
    """

    variables: tuple[tuple[keras.Variable, bool], ...] = ()
    layers: tuple[tuple[keras.Layer, bool], ...] = ()


def check_batch_norm(owner: str, mode: str) -> None:
    """Raise a `ValueError` in the name of `owner` unless `mode` is one of the four."""
    if mode not in get_args(BatchNormMode):
        modes = ", ".join(get_args(BatchNormMode))
        raise ArgumentError(owner, "batch_norm", f"be one of {modes}", value=mode)


def relative_flags(
    model: keras.Model, selection: Selection, trainable: bool, batch_norm: BatchNormMode
) -> Flags:
    """Plan to freeze or thaw a selection, all else staying as it is.

    Args:
        model: `keras.Model`, built.
        selection: What to freeze or thaw.
        trainable: Bool. True thaws, False freezes.
        batch_norm: Mode for the `BatchNormalization` layers in the selection; when thawing,
            `"frozen"` and `"statistics"` concern those of the pretrained part only.

    Returns:
        `Flags`.
    """
    left = "train" if not trainable else "frozen"
    pretrained = _pretrained_batch_norms(layer_groups(model)) if trainable else None
    variables, layers = set(selection.variables), dict.fromkeys(selection.layers, trainable)
    for layer in filter(is_batch_norm, every_layer(model)):
        own = {id(v) for v, can in own_variables(layer) if can}
        if not (own & variables or id(layer) in layers):
            continue
        mode = batch_norm if pretrained is None or id(layer) in pretrained else "follow"
        if mode == left:
            variables -= own
            layers.pop(id(layer), None)
        elif trainable:
            layers[id(layer)] = mode != "statistics"
        else:
            layers[id(layer)] = layer.trainable and not own <= variables
    return _complete(model, dict.fromkeys(variables, trainable), layers)


def phase_flags(
    model: keras.Model,
    frozen: Selection,
    batch_norm: BatchNormMode,
    groups: tuple[LayerGroup, ...],
) -> Flags:
    """Plan to freeze a selection and to train everything else.

    Args:
        model: `keras.Model`, built.
        frozen: What to freeze.
        batch_norm: Mode for the `BatchNormalization` layers of the pretrained part.
        groups: The model's layer groups; all but the last are the pretrained part.

    Returns:
        `Flags`.
    """
    every = every_layer(model)
    weights = weights_of(model)
    variables = {
        id(w.variable): id(w.variable) not in frozen.variables
        for w in weights
        if w.potentially_trainable
    }
    layers = {i: i not in frozen.layers for i in everything_in(model).layers}
    pretrained = _pretrained_batch_norms(groups)
    for layer in filter(is_batch_norm, every):
        own = [id(v) for v, can in own_variables(layer) if can]
        follows = any(variables[i] for i in own) if own else id(layer) not in frozen.layers
        mode = batch_norm if id(layer) in pretrained else "follow"
        layers[id(layer)] = {"follow": follows, "train": True}.get(mode, False)
        if mode in ("frozen", "train"):
            variables |= dict.fromkeys(own, mode == "train")
    return _complete(model, variables, layers)


def lost_in_a_file(model: keras.Model) -> tuple[str, ...]:
    """Return the paths of the variables whose flags a plain `.keras` file can't keep.

    Keras saves the flags of layers: loaded, a variable trains if its layer and all around it do.
    """
    return tuple(
        w.variable.path
        for w in weights_of(model)
        if w.potentially_trainable
        and w.variable.trainable != all(x.trainable for x in (model, *w.enclosing, w.layer))
    )


def _pretrained_batch_norms(groups: Iterable[LayerGroup]) -> frozenset[int]:
    return frozenset(
        id(layer)
        for group in tuple(groups)[:-1]
        for opened in group.layers
        for layer in every_layer(opened)
        if is_batch_norm(layer)
    )


def _complete(
    model: keras.Model, variables: Mapping[int, bool], layers: Mapping[int, bool]
) -> Flags:
    """Derive the flags of layers from those of their variables, where not given."""
    weights = [w for w in weights_of(model) if w.potentially_trainable]
    trains = {id(w.variable): variables.get(id(w.variable), w.variable.trainable) for w in weights}
    planned = []
    for layer in every_layer(model):
        if id(layer) in layers:
            planned.append((layer, layers[id(layer)]))
            continue
        below = [w.variable for w in weights_of(layer) if w.potentially_trainable]
        inner = [layers[id(x)] for x in every_layer(layer) if id(x) in layers]
        if any(id(v) in variables for v in below) or (inner and sublayers(layer)):
            planned.append((layer, any(trains[id(v)] for v in below) or any(inner)))
    return Flags(
        tuple((w.variable, trains[id(w.variable)]) for w in weights if id(w.variable) in variables),
        tuple(planned),
    )
