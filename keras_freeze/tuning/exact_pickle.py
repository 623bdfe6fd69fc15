"""Give objects to another process by value: Keras's exactly, or not at all.

Keras pickles each model or layer as an archive of its own. That leaves out flags of single weights
and the states of random generators, looks classes up by their names, and makes two objects of what
two models share. Here the first two come along, the classes too, and the last is refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle
import keras
import numpy as np

from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.model_picture import every_layer

_SEED = "seed_generator_state"


class ExactPickler(cloudpickle.Pickler):
    """cloudpickle, with models and layers as they are.

    Args:
        file: A binary file to write to.
        proves: Bool, whether each model and layer is made again here, to see that it is the same.
    """

    def __init__(self, file: Any, *, proves: bool) -> None:
        super().__init__(file)
        self._proves = proves
        # The models and layers so far, by the ids of their variables.
        self._owners: dict[int, keras.Layer] = {}

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object is made again; called by pickle."""
        if isinstance(obj, keras.Layer):
            return self._layer(obj)
        if isinstance(obj, keras.Variable):
            raise pickle.PicklingError(f"the Keras variable {obj.path!r}, without its layer")
        if isinstance(obj, keras.optimizers.Optimizer) and obj.built:
            raise pickle.PicklingError(f"the optimizer {obj.name!r}, which belongs to a model")
        return super().reducer_override(obj)

    def _layer(self, layer: keras.Layer) -> Any:
        for variable in layer.variables:
            other = self._owners.setdefault(id(variable), layer)
            if other is not layer:
                names = f"{other.name!r} and {layer.name!r}"
                raise pickle.PicklingError(f"{names}, which share weights")
        make, arguments = layer.__reduce__()[:2]
        classes = {type(part).__name__: type(part) for part in every_layer(layer)}
        own = {n: kind for n, kind in classes.items() if not kind.__module__.startswith("keras.")}
        values = [to_host(variable) for variable in _kept(layer)]
        flags = [bool(weight.trainable) for weight in layer.weights]
        again = (make, arguments, own, values, flags)
        if self._proves:
            _made_again(*again)
        return _made_again, again


def _kept(layer: keras.Layer) -> list[Any]:
    seeds = [v for v in layer.variables if v.path.rpartition("/")[2] == _SEED]
    return [*layer.weights, *seeds]


def _made_again(
    make: Callable[..., keras.Layer],
    arguments: tuple[Any, ...],
    classes: Mapping[str, type],
    values: list[np.ndarray],
    flags: list[bool],
) -> keras.Layer:
    with keras.saving.custom_object_scope(dict(classes)):
        layer = make(*arguments)
    variables = _kept(layer)
    if [tuple(v.shape) for v in variables] != [value.shape for value in values]:
        raise pickle.UnpicklingError(
            f"{layer.name!r}, which has other weights when it is made again of its settings"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    for weight, flag in zip(layer.weights, flags, strict=True):
        if bool(weight.trainable) != flag:
            weight.trainable = flag
    return layer
