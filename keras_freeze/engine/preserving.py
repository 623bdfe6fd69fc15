"""Train a model for a trial, and leave it as if that had never been."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import keras

from keras_freeze.engine import optimizer_state
from keras_freeze.engine.model_state import state_of
from keras_freeze.engine.transitions import transition
from keras_freeze.keras_internals import random_state, trainer
from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.model_picture import (
    every_layer,
    hidden_states,
    main_optimizer,
    own_optimizers,
    set_hidden_state,
)
from keras_freeze.policies import Flags

# What a fit sets on a model beside its variables.
_OF_FIT = ("history", "stop_training")
_FUNCTIONS = ("train_function", "test_function", "predict_function")


@contextlib.contextmanager
def preserved(model: keras.Model) -> Iterator[None]:
    """Restore a compiled model when the block ends, however it ends.

    That is every variable (weights, statistics, metrics, seeds), the flags, the optimizers (one
    that was not built isn't afterwards), hidden state of layers, the random generators of the
    process, and what is known of the model's fits. The values are kept on the host meanwhile. The
    step functions are made again when they are next needed.
    """
    optimizers = [main_optimizer(model), *own_optimizers(model).values()]
    flags = Flags(
        tuple((v, bool(v.trainable)) for v in model.weights),
        tuple((layer, bool(layer.trainable)) for layer in every_layer(model)),
    )
    undo = [optimizer_state.memento(optimizer) for optimizer in optimizers]
    undo.append(trainer.compiled_memento(model))
    every = [*model.variables, *(v for optimizer in optimizers for v in optimizer.variables)]
    values = [(v, to_host(v)) for v in {id(v): v for v in every}.values()]
    hidden = [(found.layer, found.saved) for found in hidden_states(model)]
    known, generators = copy.copy(vars(state_of(model))), random_state.capture()
    of_fit = {name: vars(model)[name] for name in _OF_FIT if name in vars(model)}
    try:
        yield
    finally:
        transition(model, flags, {})
        for restore in undo:
            restore()
        for variable, value in values:
            variable.assign(value)
        for layer, saved in hidden:
            set_hidden_state(layer, saved)
        for name in _FUNCTIONS:
            setattr(model, name, None)
        for name in _OF_FIT:
            vars(model).pop(name, None)
        vars(model).update(of_fit)
        vars(state_of(model)).update(known)
        random_state.restore(generators)
