"""What a freeze policy selects in one model: ids of variables, and of layers without any."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import keras

from keras_freeze.groups import LayerGroup
from keras_freeze.model_picture import ModelPicture


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


def everything(picture: ModelPicture) -> Selection:
    """Return the selection of all that a model has."""
    return of_layers(picture, [picture.model])


def of_layers(picture: ModelPicture, layers: Iterable[keras.Layer]) -> Selection:
    """Return the selection of all that some layers of a model have."""
    variables: set[int] = set()
    without: set[int] = set()
    for layer in layers:
        variables.update(id(v) for v in picture.trainable_in[id(layer)])
        inside = picture.layers_in[id(layer)]
        without.update(id(x) for x in inside if not picture.trainable_in[id(x)])
    return Selection(frozenset(variables), frozenset(without))


def of_groups(picture: ModelPicture, groups: Sequence[LayerGroup]) -> Selection:
    """Select groups by the variables they count, since a shared layer stands in several."""
    counted = frozenset(id(variable) for group in groups for variable in group.variables)
    layers = of_layers(picture, (layer for group in groups for layer in group.layers)).layers
    return Selection(counted & everything(picture).variables, layers)


def before(picture: ModelPicture, index: int) -> Selection:
    """Select the layers before an index, nested models opened.

    Weights that a model holds outside its layers come with the first, as in `layer_groups`.
    """
    first = picture.opened[:index]
    if not first:
        return Selection()
    in_layers = of_layers(picture, picture.opened).variables
    outside = everything(picture).variables - in_layers
    return of_layers(picture, first) | Selection(outside)
