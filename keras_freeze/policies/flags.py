"""Plan the `trainable` flags that a selection implies. Pure: the engine sets them.

Keras keeps two flags. A variable's own decides whether the optimizer updates it; a layer's
decides whether a `BatchNormalization` updates its moving statistics. They are planned
together here, for the whole model, so that no half-set state is left behind.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Literal, get_args

import keras

from keras_freeze.checks import ArgumentError, first_few
from keras_freeze.groups import with_groups
from keras_freeze.keras_internals.layers import lora_base
from keras_freeze.model_picture import ModelPicture, Weight, hidden_states
from keras_freeze.policies.selection import Selection, everything

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
        raise ArgumentError(
            owner, "batch_norm", f"be one of {', '.join(get_args(BatchNormMode))}", value=mode
        )


def relative_flags(
    picture: ModelPicture, selection: Selection, trainable: bool, batch_norm: BatchNormMode
) -> Flags:
    """Plan to freeze or unfreeze a selection, all else staying as it is.

    Args:
        picture: The picture of the model.
        selection: What to freeze or unfreeze.
        trainable: Bool. True unfreezes, False freezes.
        batch_norm: Mode for the `BatchNormalization` layers in the selection; when unfreezing,
            `"frozen"` and `"statistics"` concern those of the pretrained part only.

    Returns:
        `Flags`.
    """
    # The mode that leaves a BatchNorm layer as it is.
    left = "frozen" if trainable else "train"
    if trainable:
        selection -= Selection(picture.never_trains, picture.never_trains)
    pretrained = _pretrained_batch_norms(with_groups(picture)) if trainable else None
    variables, layers = set(selection.variables), dict.fromkeys(selection.layers, trainable)
    for layer in picture.batch_norms_in([picture.model]):
        own = {id(v) for v in _own_trainable(picture, layer)}
        if not (own & variables or id(layer) in layers):
            continue
        mode = batch_norm if pretrained is None or id(layer) in pretrained else "follow"
        if trainable and batch_norm == "frozen" and id(layer) in picture.untouched:
            mode = "follow"
        if mode == left:
            variables -= own
            layers.pop(id(layer), None)
        elif trainable:
            layers[id(layer)] = mode != "statistics"
        else:
            layers[id(layer)] = layer.trainable and not own <= variables
    return _complete(picture, dict.fromkeys(variables, trainable), layers)


def phase_flags(picture: ModelPicture, frozen: Selection, batch_norm: BatchNormMode) -> Flags:
    """Plan to freeze a selection and to train everything else.

    Args:
        picture: The picture of the model, with its groups; all but the last are the pretrained
            part.
        frozen: What to freeze.
        batch_norm: Mode for the `BatchNormalization` layers of the pretrained part. Instead of
            `"frozen"`, one that is untouched follows: its statistics are not those of any data.

    Returns:
        `Flags`.
    """
    whole, never = everything(picture), picture.never_trains
    frozen |= Selection(never, never)
    variables = {i: i not in frozen.variables for i in whole.variables}
    layers = {i: i not in frozen.layers for i in whole.layers}
    pretrained = _pretrained_batch_norms(picture)
    for layer in picture.batch_norms_in([picture.model]):
        own = [id(v) for v in _own_trainable(picture, layer)]
        is_new = id(layer) not in pretrained
        is_new = is_new or (batch_norm == "frozen" and id(layer) in picture.untouched)
        if is_new or batch_norm == "follow":
            follows = any(variables[i] for i in own) if own else id(layer) not in frozen.layers
            layers[id(layer)] = follows
        else:
            layers[id(layer)] = batch_norm == "train"
            if batch_norm != "statistics":
                variables.update(dict.fromkeys(own, batch_norm == "train"))
    for flags in (variables, layers):
        flags.update(dict.fromkeys(never & flags.keys(), False))
    return _complete(picture, variables, layers)


def warn_of_hidden_state(owner: str, picture: ModelPicture, frozen: Selection) -> None:
    """Warn of frozen layers that hold what Keras can't freeze, having no flag for it."""
    for found in hidden_states(picture.model):
        layer = found.layer
        own = {id(variable) for variable in picture.trainable_in[id(layer)]}
        if own <= frozen.variables and (own or id(layer) in frozen.layers):
            warnings.warn(
                f"{owner}: {layer.name} ({type(layer).__name__}) is frozen, but not what it holds "
                f"beside its variables ({first_few(found.names)}): training may change it. "
                "keras_freeze.FreezeGuard says when it does; BackupAndRestore keeps it.",
                stacklevel=4,
            )


def lost_in_a_file(picture: ModelPicture) -> tuple[str, ...]:
    """Return the paths of the variables whose flags a plain `.keras` file can't keep.

    Keras saves the flags of layers: loaded, a variable trains if its layer and all around it do.
    """
    lost = []
    for weight in picture.weights:
        around = (picture.model, *weight.enclosing, weight.layer)
        is_base = weight.variable is lora_base(weight.layer)  # which loading freezes
        loads_as = all(layer.trainable for layer in around) and not is_base
        is_lost = weight.variable.trainable != loads_as
        if weight.potentially_trainable and is_lost:
            lost.append(weight.variable.path)
    return tuple(lost)


def _pretrained_batch_norms(picture: ModelPicture) -> frozenset[int]:
    layers = (layer for group in picture.groups[:-1] for layer in group.layers)
    return frozenset(id(layer) for layer in picture.batch_norms_in(layers))


def _own_trainable(picture: ModelPicture, layer: keras.Layer) -> list[keras.Variable]:
    """Return the variables of a layer itself that were made to be trained."""

    def is_own(weight: Weight) -> bool:
        return weight.layer is layer and weight.potentially_trainable

    return [w.variable for w in picture.weights_in[id(layer)] if is_own(w)]


def _complete(
    picture: ModelPicture, variables: Mapping[int, bool], layers: Mapping[int, bool]
) -> Flags:
    """Derive the flags of layers from those of their variables, where not given."""
    can_train = picture.trainable_in[id(picture.model)]
    trains = {id(v): variables.get(id(v), v.trainable) for v in can_train}
    planned = []
    for layer in picture.layers:
        if id(layer) in layers:
            planned.append((layer, layers[id(layer)]))
            continue
        below = picture.trainable_in[id(layer)]
        inside = picture.layers_in[id(layer)]
        given = [layers[id(x)] for x in inside if id(x) in layers]
        holds_given_layers = bool(given) and len(inside) > 1
        if holds_given_layers or any(id(v) in variables for v in below):
            planned.append((layer, any(trains[id(v)] for v in below) or any(given)))
    changing = tuple((v, trains[id(v)]) for v in can_train if id(v) in variables)
    return Flags(changing, tuple(planned))
