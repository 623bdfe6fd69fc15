"""How much an optimizer holds for what trains."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import keras

from keras_freeze.keras_internals.optimizer_sketch import sketched_state
from keras_freeze.keras_internals.optimizers import built_variables
from keras_freeze.memory.activations import NotKnown
from keras_freeze.model_picture import bytes_of, optimizers_of, own_optimizers


def optimizer_bytes(model: keras.Model, trained: Collection[int]) -> int | NotKnown:
    """Return the size of what the optimizers of a model hold, or why it is not known.

    An optimizer that was built for what trains is asked, of any other it is found out what it would
    make. Step counts and learning rates are in it. The optimizers stay as they are.

    Args:
        model: `keras.Model`, built.
        trained: Ids of the variables that train.
    """
    optimizers = optimizers_of(model)
    if not optimizers:
        return NotKnown("the model is not compiled")
    is_one_of_several = bool(own_optimizers(model))  # each trains what it was built for
    total = 0
    for optimizer in optimizers:
        every = built_variables(optimizer) if is_one_of_several else model.weights
        variables = [variable for variable in every if id(variable) in trained]
        try:
            total += sum(map(bytes_of, _state(optimizer, variables)))
        except Exception as error:  # a `build` of the user's own may do anything
            kind = type(optimizer).__name__
            return NotKnown(f"{kind} can't be built without its variables: {error}")
    return total


def _state(optimizer: Any, variables: list[keras.Variable]) -> list[Any]:
    built = {id(variable) for variable in built_variables(optimizer)}
    if optimizer.built and built == {id(variable) for variable in variables}:
        return list(optimizer.variables)
    return sketched_state(optimizer, variables)
