"""The models that trials keep, and those that a search returns."""

import keras
import keras_tuner
import numpy as np
import pytest
from small_searches import FIT, Untrained, X, Y, build, build_with_depth, random_search

from keras_freeze import plots, tuning
from keras_freeze.tuning import results


def test_the_best_model_is_as_at_its_best_epoch(tmp_path):
    kept = {}

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            model = self.model
            kept[logs["val_loss"]] = (
                model.get_weights(),
                [v.trainable for v in model.weights],
                [np.asarray(v) for v in model.optimizer.variables],
            )

    too_high_at_last = keras.callbacks.LearningRateScheduler(lambda n: 0.01 if n < 3 else 50.0)
    tuner = random_search(build_with_depth, tmp_path, max_trials=2)
    Keep.__deepcopy__ = lambda self, memo: self
    callbacks = [Keep(), too_high_at_last]
    tuner.search(X, Y, **{**FIT, "epochs": 4, "callbacks": callbacks})
    (model,) = tuner.get_best_models()
    best = results.best_first(tuner.rows(), "min")[0]
    assert best["best_epoch"] == 2
    weights, flags, optimizer = kept[best["score"]]
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert flags == [v.trainable for v in model.weights]
    for a, b in zip(optimizer, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, np.asarray(b))


def test_several_best_models(searched):
    models = searched.get_best_models(3)
    scores = [m.evaluate(X, Y, verbose=0, return_dict=True)["loss"] for m in models]
    expected = [trial.score for trial in searched.oracle.get_best_trials(3)]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    searched.get_best_models(2)
    again = [m.evaluate(X, Y, verbose=0, return_dict=True)["loss"] for m in models]
    assert again == scores


def test_best_models_that_share_layers(tmp_path):
    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, name="low")])

    def make(hp):
        hp.Float("unused", 0.0, 1.0)
        model = keras.Sequential(
            [keras.Input((4,)), backbone, keras.layers.Dense(3, activation="softmax")]
        )
        loss = "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.Adam(0.1), loss, run_eagerly=True)
        return model

    tuner = random_search(make, tmp_path, max_trials=2)
    tuner.search(X, Y, **FIT)
    with pytest.warns(UserWarning, match="models that share layers"):
        best, _ = tuner.get_best_models(2)
    score = tuner.oracle.get_best_trials()[0].score
    np.testing.assert_allclose(best.evaluate(X, Y, verbose=0), score, rtol=1e-6)


def test_batch_norm_modes_come_back(batch_norm, tmp_path):
    def make(hp):
        model = batch_norm()
        model.compile("adam", "sparse_categorical_crossentropy")
        tuning.freeze_depth(hp, model, min=1, batch_norm="train")
        return model

    tuner = random_search(Untrained(make), tmp_path)
    tuner.search(verbose=0)
    (model,) = tuner.get_best_models()
    expected = make(tuner.get_best_hyperparameters()[0])
    for layer, other in zip(model.layers, expected.layers, strict=True):
        assert layer.trainable == other.trainable
    assert [v.trainable for v in model.weights] == [v.trainable for v in expected.weights]


def test_a_fit_without_the_callbacks_keeps_no_model(tmp_path, capsys):
    class Alone(keras_tuner.HyperModel):
        def build(self, hp):
            return build()

        def fit(self, hp, model, *args, **kwargs):
            return 1.0

    tuner = random_search(Alone(), tmp_path)
    tuner.search(X, Y)
    tuner.results_summary()
    assert tuner.rows()[0]["status"] == "COMPLETED"
    with pytest.raises(ValueError, match="at least one complete trial whose callbacks were"):
        plots.search(tuner)
    with pytest.raises(ValueError, match="must have kept its model"):
        tuner.get_best_models()
