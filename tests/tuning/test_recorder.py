"""What is recorded of a training: what trained when, how well, at which epochs."""

from pathlib import Path

import keras
import keras_tuner
import pytest
from small_searches import FIT, Untrained, X, Y, build, project, random_search

import keras_freeze as kf
from keras_freeze import tuning
from keras_freeze.tuning import trial_record


def record_of(hypermodel, folder, *args, **fit_kwargs):
    tuner = tuning.RandomSearch(hypermodel, "val_loss", max_trials=1, **project(folder))
    tuner.search(*args, **fit_kwargs)
    (record,) = trial_record.read_all(Path(tuner.project_dir))
    return record


@pytest.mark.parametrize("is_first", [True, False])
def test_what_trained_when(is_first, tmp_path):
    class Model(keras_tuner.HyperModel):
        def build(self, hp):
            return build()

        def fit(self, hp, model, *args, callbacks=(), **kwargs):
            callback = tuning.schedule(hp, choices=[1], verbose=0)
            order = [callback, *callbacks] if is_first else [*callbacks, callback]
            return model.fit(*args, callbacks=order, **kwargs)

    record = record_of(Model(), tmp_path, X, Y, **{**FIT, "epochs": 4})
    (execution,) = record.executions
    assert [part.epoch for part in execution.parts] == [0, 1, 2]
    assert [part.frozen_groups for part in execution.parts] == [("low", "middle"), ("low",), ()]
    assert [part.trainable_params for part in execution.parts] == [18, 53, 83]
    assert [part.trainable_bytes for part in execution.parts] == [72, 212, 332]
    assert execution.is_traced == [True, True, True, False]
    assert len(execution.history["val_loss"]) == len(execution.epoch_s) == 4
    assert execution.history["trainable_params"] == [18, 53, 83, 83]
    assert execution.score == min(execution.history["val_loss"])
    assert record.values == {"schedule": "1"}  # which is asked for in `fit`


def test_two_fits_in_a_trial(tmp_path):
    class Model(Untrained):
        def build(self, hp):
            model = build()
            tuning.freeze_depth(hp, model, min=2)
            return model

        def fit(self, hp, model, *args, **kwargs):
            super().fit(hp, model, *args, **kwargs)
            kf.unfreeze(model, matching=".")
            return super().fit(hp, model, *args, **kwargs)

    record = record_of(Model(build), tmp_path, epochs=2, verbose=0)
    (execution,) = record.executions
    assert [(p.epoch, p.trainable_params) for p in execution.parts] == [(0, 18), (2, 83)]
    assert len(execution.epoch_s) == 4


def test_a_loop_of_ones_own(tmp_path):
    class Model(keras_tuner.HyperModel):
        def build(self, hp):
            model = build()
            tuning.freeze_depth(hp, model, min=1)
            return model

        def fit(self, hp, model, x, y, callbacks=(), **kwargs):
            for callback in callbacks:
                callback.set_model(model)
            for epoch in range(2):
                loss = model.train_on_batch(x, y)
                for callback in callbacks:
                    callback.on_epoch_end(epoch, {"val_loss": float(loss[0])})
            return float(loss[0])

    tuner = tuning.RandomSearch(Model(), "val_loss", max_trials=1, **project(tmp_path))
    tuner.search(X, Y)
    (row,) = tuner.rows()
    assert (row["status"], row["epochs"], row["trainable_params"]) == ("COMPLETED", 2, 53)
    tuner.get_best_models()


def test_nan_in_the_first_epoch(tmp_path):
    class Late(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                logs["val_loss"] = float("nan")

    tuner = tuning.RandomSearch(lambda hp: build(), "val_loss", max_trials=1, **project(tmp_path))
    with pytest.raises(RuntimeError, match=r"none is complete.*not a number \(NaN\)"):
        tuner.search(X, Y, callbacks=[Late()], **FIT)
    (record,) = trial_record.read_all(Path(tuner.project_dir))
    assert record.executions[0].best_epoch == 1


def test_a_metric_of_several_values(tmp_path):
    def make(hp):
        model = build()
        f1 = keras.metrics.F1Score(name="f1")
        model.compile("sgd", "categorical_crossentropy", metrics=[f1], run_eagerly=True)
        return model

    targets = keras.utils.to_categorical(Y)
    record = record_of(make, tmp_path, X, targets, **{**FIT, "validation_data": (X, targets)})
    assert record.failures == []
    assert [len(values) for values in record.executions[0].history["f1"]] == [3, 3]


def test_known_counts(tmp_path):
    def make(hp):
        backbone = keras.applications.VGG16(
            include_top=False, weights=None, input_shape=(224, 224, 3)
        )
        x = keras.layers.Dense(128)(keras.layers.Flatten()(backbone.output))
        model = keras.Model(backbone.input, keras.layers.Dense(10)(x))
        model.compile("sgd", "mse")
        tuning.freeze_depth(hp, model, unit="layer", min=10, max=10)
        return model

    tuner = tuning.RandomSearch(Untrained(make), "val_loss", max_trials=1, **project(tmp_path))
    tuner.search(verbose=0)
    (row,) = tuner.rows()
    assert (row["trainable_params"], row["non_trainable_params"]) == (16_191_882, 1_735_488)


def test_a_model_that_its_first_step_builds(tmp_path):
    def make(hp):
        hp.Float("unused", 0.0, 1.0)
        model = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(3, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    tuner = random_search(make, tmp_path)
    tuner.search(X, Y, **FIT)
    (row,) = tuner.rows()
    assert (row["status"], row["trainable_params"], row["epochs"]) == ("COMPLETED", 27, 2)


def test_the_depth_that_training_has_found(tmp_path):
    class Model(keras_tuner.HyperModel):
        def build(self, hp):
            return build()

        def fit(self, hp, model, *args, callbacks=(), **kwargs):
            callback = kf.GradualUnfreeze("auto", backbone=["low", "middle"], verbose=0)
            return model.fit(*args, callbacks=[callback, *callbacks], **kwargs)

    record = record_of(Model(), tmp_path, X, Y, **{**FIT, "epochs": 6})
    (execution,) = record.executions
    assert record.freeze_depth == execution.history["freeze_depth"][execution.best_epoch]
    assert execution.score == min(execution.history["val_loss"])
