"""Trials whose models share layers: each begins with the pretrained weights and flags."""

from pathlib import Path

import keras
import keras_tuner
import numpy as np
from small_searches import FIT, X, Y, project

import keras_freeze as kf
from keras_freeze import tuning
from keras_freeze.tuning import trial_record


def test_every_trial_begins_with_the_pretrained_weights(tmp_path):
    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, name="low")])
    at_start, begun, changed = backbone.get_weights(), [], []

    class Note(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            pairs = zip(at_start, backbone.get_weights(), strict=True)
            changed.append(any((a != b).any() for a, b in pairs))

    def make(hp):
        begun.append(backbone.get_weights())
        model = keras.Sequential(
            [keras.Input((4,)), backbone, keras.layers.Dense(3, activation="softmax")]
        )
        loss = "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.Adam(0.1), loss, run_eagerly=True)
        tuning.freeze_depth(hp, model)
        return model

    tuner = tuning.RandomSearch(make, "val_loss", max_trials=2, seed=0, **project(tmp_path))
    Note.__deepcopy__ = lambda self, memo: self
    tuner.search(X, Y, callbacks=[Note()], **FIT)
    assert len(begun) >= 3
    assert sorted(changed) == [False, True]  # frozen in one trial, trained in the other
    for weights in begun:
        for a, b in zip(at_start, weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_a_trial_unfreezes_of_a_shared_backbone_is_frozen_in_the_next(tmp_path):
    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, name="low")])
    backbone.trainable = False

    class Model(keras_tuner.HyperModel):
        def build(self, hp):
            model = keras.Sequential([keras.Input((4,)), backbone, keras.layers.Dense(3)])
            rate = hp.Float("rate", 0.01, 0.1)
            model.compile(keras.optimizers.SGD(rate), "mse", run_eagerly=True)
            return model

        def fit(self, hp, model, *args, **kwargs):
            model.fit(*args, **kwargs)
            kf.unfreeze(model, matching=".")
            return model.fit(*args, **kwargs)

    tuner = tuning.RandomSearch(Model(), "val_loss", max_trials=3, **project(tmp_path))
    y = np.zeros((32, 3))
    tuner.search(X, y, **{**FIT, "epochs": 1, "validation_data": (X, y)})
    for record in trial_record.read_all(Path(tuner.project_dir)):
        assert [part.trainable_params for part in record.executions[0].parts] == [21, 51]
