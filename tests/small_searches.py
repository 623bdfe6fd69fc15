"""What tests of searches share: a tiny model to build, data, and a training that trains nothing."""

import keras
import keras_tuner
import numpy as np
from pretrained_models import as_if_trained

from keras_freeze import tuning

_rng = np.random.default_rng(0)
X = _rng.normal(size=(32, 4)).astype("float32")
Y = _rng.integers(0, 3, 32)
FIT = {"validation_data": (X, Y), "epochs": 2, "verbose": 0}


def build(hp=None, *, traced=False):
    """Three dense layers with the same weights each time; a trace is most of a short training."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="relu", name="low"),
            keras.layers.Dense(5, activation="relu", name="middle"),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ],
        name="plain",
    )
    as_if_trained(model)
    loss = "sparse_categorical_crossentropy"
    model.compile("adam", loss, metrics=["accuracy"], run_eagerly=not traced)
    return model


def build_with_depth(hp):
    model = build()
    tuning.freeze_depth(hp, model)
    return model


def project(folder):
    return {"directory": folder, "project_name": "search"}


def random_search(hypermodel, folder, **options):
    options = {"max_trials": 1, "seed": 0, **options}
    return tuning.RandomSearch(hypermodel, "val_loss", **options, **project(folder))


def fixed(**values):
    hp = keras_tuner.HyperParameters()
    for name, value in values.items():
        hp.Fixed(name, value)
    return hp


class Untrained(keras_tuner.HyperModel):
    """Calls the callbacks as a `fit` would, without training: for tests of what is around it."""

    def __init__(self, make, score=lambda hp, epoch: 1.0):
        super().__init__()
        self._make = make
        self._score = score

    def build(self, hp):
        return self._make(hp)

    def fit(self, hp, model, *args, callbacks=(), epochs=1, initial_epoch=0, **kwargs):
        called = keras.callbacks.CallbackList(callbacks, model=model, epochs=epochs)
        if model.compiled:
            model.optimizer.build(model.trainable_variables)
        called.on_train_begin()
        for epoch in range(initial_epoch, epochs):
            called.on_epoch_begin(epoch)
            called.on_epoch_end(epoch, {"val_loss": self._score(hp, epoch)})
            if model.stop_training:
                break
        called.on_train_end()
        return self._score(hp, epochs - 1)
