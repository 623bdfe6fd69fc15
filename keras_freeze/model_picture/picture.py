"""One immutable picture of a model, made once per fit or call, that all planning reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_freeze.model_picture.layer_group import GroupNames, LayerGroup
from keras_freeze.model_picture.layers import (
    Weight,
    every_layer,
    is_batch_norm,
    opened_layers,
    teacher_of,
    weights_of,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """The pretrained part of a model; everything else is new.

    Attributes:
        names: Tuple of str, what it is called: a nested model, a layer, a pattern.
        layers: Tuple of `keras.Layer`, its layers, nested models opened.
        new: Tuple of `keras.Layer`, all others of the model.
        has_new_below: Bool, whether the output of new layers with weights is fed into it.
        is_assumed: Bool, whether nothing shows it, and all groups but the last are taken for it.
    """

    names: tuple[str, ...]
    layers: tuple[keras.Layer, ...]
    new: tuple[keras.Layer, ...]
    has_new_below: bool = False
    is_assumed: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class ModelPicture:
    """The structure of a model, independent of its current flags.

    Attributes:
        model: `keras.Model`. The model itself, for its name and for the engine.
        layers: Tuple of `keras.Layer`. The model and all layers below it, containers before
            contents.
        opened: Tuple of `keras.Layer`. Its layers as in `model.layers`, nested models opened.
        weights: Tuple of `Weight`. Every weight once, with its owner, from input to head.
        layers_in: Mapping from the id of each layer to the layer and all layers below it.
        weights_in: Mapping from the id of each layer to the weights of these, whoever shares
            them.
        trainable_in: Mapping from the id of each layer to those variables of its `weights_in`
            that were made to be trained.
        backbone: Names of what is pretrained, as the user gave them; None if they are to be found.
        groups: Tuple of `LayerGroup`, from input to head; empty if they were not requested. All
            but the last are pretrained.
        division: The division into groups that the user gave; None if it is automatic.
        pretrained: The pretrained part, where there are groups.
        untouched: Ids of the layers that have the values they were made with, where they have been
            looked at.
        never_trains: Ids of the variables and layers that are frozen for good.
        lora_base_trains: Bool, whether what LoRA has frozen can be trained.
    """

    model: keras.Model
    layers: tuple[keras.Layer, ...]
    opened: tuple[keras.Layer, ...]
    weights: tuple[Weight, ...]
    layers_in: Mapping[int, tuple[keras.Layer, ...]]
    weights_in: Mapping[int, tuple[Weight, ...]]
    trainable_in: Mapping[int, tuple[keras.Variable, ...]]
    backbone: Any = None
    groups: tuple[LayerGroup, ...] = ()
    division: Any = None
    pretrained: Pretrained | None = None
    untouched: frozenset[int] = frozenset()
    never_trains: frozenset[int] = frozenset()
    lora_base_trains: bool = False

    @property
    def group_names(self) -> GroupNames:
        """The names of the groups, from input to head."""
        return GroupNames.of(self.groups)

    @property
    def groups_that_may_train(self) -> tuple[LayerGroup, ...]:
        """The groups without those that are frozen for good; the last where all are."""
        can_train = {id(v) for v in self.trainable_in[id(self.model)]} - self.never_trains
        found = (g for g in self.groups if any(id(v) in can_train for v in g.variables))
        return tuple(found) or self.groups[-1:]

    def batch_norms_in(self, layers: Iterable[keras.Layer]) -> tuple[keras.Layer, ...]:
        """Return the `BatchNormalization` layers among some layers and below them."""
        found = {id(x): x for layer in layers for x in self.layers_in[id(layer)]}
        return tuple(x for x in found.values() if is_batch_norm(x))


def read_model(
    model: keras.Model, backbone: Any = None, *, lora_base_trains: bool = False
) -> ModelPicture:
    """Return the picture of a built model, without groups; `backbone` by its names."""
    layers = every_layer(model)
    weights_in = {
        id(layer): weights_of(layer, lora_base_trains=lora_base_trains) for layer in layers
    }
    trainable_in = {}
    for i, weights in weights_in.items():
        trainable_in[i] = tuple(w.variable for w in weights if w.potentially_trainable)
    teacher = teacher_of(model)
    never_trains: set[int] = set()
    if teacher is not None:
        never_trains.update(id(weight.variable) for weight in weights_in[id(teacher)])
        never_trains.update(id(layer) for layer in every_layer(teacher))
    return ModelPicture(
        model=model,
        layers=layers,
        opened=opened_layers(model),
        weights=weights_in[id(model)],
        layers_in={id(layer): every_layer(layer) for layer in layers},
        weights_in=weights_in,
        trainable_in=trainable_in,
        backbone=backbone,
        never_trains=frozenset(never_trains),
        lora_base_trains=lora_base_trains,
    )
