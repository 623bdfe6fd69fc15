"""The values that a model's weights had when its training began, and how far they have moved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.measures import WeightChange, measured_weights
from keras_freeze.model_picture import ModelPicture


class FirstValues:
    """A copy on the host of all weights that can be trained, as they were when first seen.

    What LoRA has frozen is among them, and so are its adapters; moving statistics are not.

    Args:
        known: Pairs of a variable and its first value. Defaults to none.
    """

    def __init__(self, known: Iterable[tuple[keras.Variable, np.ndarray]] = ()) -> None:
        # With the variables, since the id of one that is gone may be another's.
        self._known = {id(variable): (variable, value) for variable, value in known}

    def see(self, picture: ModelPicture) -> None:
        """Copy the weights that have not been seen before."""
        for variable in measured_weights(picture):
            if id(variable) not in self._known:
                self._known[id(variable)] = variable, to_host(variable)

    def changes(self, picture: ModelPicture) -> dict[str, float]:
        """Return by group how far its weights have moved, relative to their norm at first."""
        self.see(picture)
        able = {id(variable) for variable in measured_weights(picture)}
        found = {}
        for group in picture.groups:
            own = [variable for variable in group.variables if id(variable) in able]
            if own:
                before = (self._known[id(variable)][1] for variable in own)
                found[group.name] = WeightChange().change(before, map(to_host, own))
        return found

    def to_plain(self, model: keras.Model) -> list[np.ndarray | None]:
        """Return the values in the order of the model's weights; None for those not seen."""
        return [self._known.get(id(v), (v, None))[1] for v in model.weights]

    @classmethod
    def of_plain(cls, model: keras.Model, values: Sequence[Any]) -> FirstValues:
        """Return what `to_plain` returned as plain data."""
        pairs = zip(model.weights, values, strict=True)
        return cls((variable, value) for variable, value in pairs if value is not None)
