"""What a model is about to train, and how: by its flags, or by what a schedule plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras

from keras_freeze.keras_internals.optimizers import inner_optimizers, rate_of
from keras_freeze.model_picture import (
    ModelPicture,
    learning_rate_of,
    main_optimizer,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """What a training is set up to do.

    Attributes:
        picture: The picture of the model, with groups and initial values.
        training: Ids of the variables that train in the first phase.
        batch_norms: Names of the pretrained `BatchNormalization` layers whose statistics move at
            some time.
        rates: Learning rate of each group at its highest, those that never train left out.
        is_planned: Bool, whether a schedule says so, not the model's flags.
        batch_size: Int, None if not known.
    """

    picture: ModelPicture
    training: frozenset[int]
    batch_norms: tuple[str, ...]
    rates: Mapping[str, float]
    is_planned: bool
    batch_size: int | None

    @property
    def model(self) -> keras.Model:
        """The model."""
        return self.picture.model

    @property
    def optimizer(self) -> str:
        """The class of the model's optimizer in lower case; "" where there are several or none."""
        optimizer = main_optimizer(self.model)
        while optimizer is not None and len(inner_optimizers(optimizer)) == 1:
            (optimizer,) = inner_optimizers(optimizer)
        if optimizer is None or inner_optimizers(optimizer):
            return ""
        return type(optimizer).__name__.lower()

    def trains(self, layer: keras.Layer) -> bool:
        """Tell whether a weight of a layer trains in the first phase."""
        return any(id(v) in self.training for v in self.picture.trainable_in[id(layer)])


def constant_rate(model: keras.Model) -> float | None:
    """Return the learning rate of a compiled model; None for a schedule, of which 0 is one step."""
    optimizer = main_optimizer(model) if getattr(model, "compiled", False) else None
    while optimizer is not None and len(inner_optimizers(optimizer)) == 1:
        (optimizer,) = inner_optimizers(optimizer)
    if optimizer is None or inner_optimizers(optimizer):
        return None
    return learning_rate_of(model) if isinstance(rate_of(optimizer), keras.Variable) else None


def by_flags(picture: ModelPicture, batch_size: int | None) -> Setup:
    """Return what a model trains by its present flags."""
    model = picture.model
    training = frozenset(id(variable) for variable in model.trainable_variables)
    rate = constant_rate(model)
    rates = {
        group.name: rate
        for group in picture.groups
        if rate is not None and any(id(v) in training for v in group.variables)
    }
    layers = picture.pretrained.layers if picture.pretrained is not None else ()
    moving = tuple(layer.name for layer in picture.batch_norms_in(layers) if layer.trainable)
    return Setup(picture, training, moving, rates, is_planned=False, batch_size=batch_size)
