"""What a freeze policy selects in one model: ids of variables, and of layers without any."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import keras

from keras_freeze.groups import LayerGroup
from keras_freeze.model_picture import every_layer, opened_layers, weights_of


@dataclasses.dataclass(frozen=True)
class Selection:
    """What a policy selects in one model, by object id.

    Attributes:
        variables: Ids of variables that can be trained.
        layers: Ids of layers that have none, whose flag follows all the same.
    """

    variables: frozenset[int] = frozenset()
    layers: frozenset[int] = frozenset()

    def __or__(self, other: Selection) -> Selection:
        """Return what is in either."""
        return Selection(self.variables | other.variables, self.layers | other.layers)

    def __and__(self, other: Selection) -> Selection:
        """Return what is in both."""
        return Selection(self.variables & other.variables, self.layers & other.layers)

    def __sub__(self, other: Selection) -> Selection:
        """Return what is in this one only."""
        return Selection(self.variables - other.variables, self.layers - other.layers)


def everything_in(layer: keras.Layer) -> Selection:
    """Return the selection of all that a model or layer has."""
    weights = weights_of(layer)
    return Selection(
        frozenset(id(w.variable) for w in weights if w.potentially_trainable),
        frozenset(id(x) for x in without_trainable(layer)),
    )


def of_layers(layers: Iterable[keras.Layer]) -> Selection:
    """Return the selection of all that some layers have."""
    selection = Selection()
    for layer in layers:
        selection |= everything_in(layer)
    return selection


def of_groups(model: keras.Model, groups: Sequence[LayerGroup]) -> Selection:
    """Select groups by the variables they count, since a shared layer stands in several."""
    counted = frozenset(id(variable) for group in groups for variable in group.variables)
    layers = of_layers(layer for group in groups for layer in group.layers).layers
    return Selection(counted & everything_in(model).variables, layers)


def before(model: keras.Model, index: int) -> Selection:
    """Select the layers before an index, nested models opened.

    Weights that a model holds outside its layers come with the first, as in `layer_groups`.
    """
    layers = opened_layers(model)
    selection = of_layers(layers[:index])
    if not layers[:index]:
        return selection
    loose = everything_in(model).variables - of_layers(layers).variables
    return selection | Selection(loose)


def without_trainable(model: keras.Layer) -> list[keras.Layer]:
    """Return the layers in which no weight can be trained: pooling, input, dropout."""
    return [
        layer
        for layer in every_layer(model)
        if not any(weight.potentially_trainable for weight in weights_of(layer))
    ]
