"""One immutable picture of a model, made once a fit or a call, which all that is planned reads."""

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
    weights_of,
)


@dataclasses.dataclass(frozen=True, eq=False)
class ModelPicture:
    """How a model is put together, whatever its flags say at the moment.

    Attributes:
        model: `keras.Model`. The model itself, for its name and for the engine.
        layers: Tuple of `keras.Layer`. The model and all layers below it, containers before
            contents.
        opened: Tuple of `keras.Layer`. Its layers as in `model.layers`, nested models opened.
        weights: Tuple of `Weight`. Every weight once, with its owner, from input to head.
        layers_in: Mapping from the id of each layer to the layer and all layers below it.
        weights_in: Mapping from the id of each layer to the weights of these, whoever shares
            them.
        groups: Tuple of `LayerGroup`, from input to head; empty where nobody asked for them.
        division: How the groups were given by the user; None where they were found.
    """

    model: keras.Model
    layers: tuple[keras.Layer, ...]
    opened: tuple[keras.Layer, ...]
    weights: tuple[Weight, ...]
    layers_in: Mapping[int, tuple[keras.Layer, ...]]
    weights_in: Mapping[int, tuple[Weight, ...]]
    groups: tuple[LayerGroup, ...] = ()
    division: Any = None

    @property
    def group_names(self) -> GroupNames:
        """The names of the groups, from input to head."""
        return GroupNames.of(self.groups)

    def trainable_in(self, layer: keras.Layer) -> tuple[keras.Variable, ...]:
        """Return the variables of a layer, and of all below it, that were made to be trained."""
        return tuple(w.variable for w in self.weights_in[id(layer)] if w.potentially_trainable)

    def batch_norms_in(self, layers: Iterable[keras.Layer]) -> tuple[keras.Layer, ...]:
        """Return the `BatchNormalization` layers among some layers and below them."""
        found = {id(x): x for layer in layers for x in self.layers_in[id(layer)]}
        return tuple(x for x in found.values() if is_batch_norm(x))


def read_model(model: keras.Model) -> ModelPicture:
    """Return the picture of a built model, without groups."""
    layers = every_layer(model)
    return ModelPicture(
        model=model,
        layers=layers,
        opened=opened_layers(model),
        weights=weights_of(model),
        layers_in={id(layer): every_layer(layer) for layer in layers},
        weights_in={id(layer): weights_of(layer) for layer in layers},
    )
