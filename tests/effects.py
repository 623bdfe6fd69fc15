"""What training did to a model, weight by weight."""

from __future__ import annotations

import keras
import numpy as np


def flags(model):
    """Return `trainable` by path of all weights; paths are unique in the test models."""
    found = {variable.path: bool(variable.trainable) for variable in model.weights}
    assert len(found) == len(model.weights)
    return found


def trained(model):
    """Return the paths of what the optimizer would update, as Keras itself sees it."""
    return {variable.path for variable in model.trainable_variables}


def values(model):
    """Copy all weights to the host, by path."""
    return {v.path: np.array(keras.ops.convert_to_numpy(v.value)) for v in model.weights}


def changed(before, after):
    """Return the paths of the weights that differ in a single bit between two copies."""
    return {path for path in before if before[path].tobytes() != after[path].tobytes()}


def moved(before, model):
    """Return the paths of the weights that have changed since `before` was copied."""
    return changed(before, values(model))


def moved_by_fit(model, data, **arguments):
    """Fit for one epoch and return the paths of the weights that changed."""
    before = values(model)
    model.fit(*data, **{"epochs": 1, "batch_size": 8, "verbose": 0, **arguments})
    return moved(before, model)


def compiled(model, optimizer="sgd", *, eager=False):
    """Compile a test model for the targets of the `data_for` fixture, and return it."""
    losses = [
        "mse" if tensor.shape[-1] == 1 else "sparse_categorical_crossentropy"
        for tensor in model.outputs
    ]
    if optimizer == "sgd":
        optimizer = keras.optimizers.SGD(0.5, momentum=0.9)
    loss = losses[0] if len(losses) == 1 else losses
    model.compile(optimizer, loss, run_eagerly=eager)
    return model
