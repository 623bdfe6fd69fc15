"""Trials whose models share layers: each begins with the pretrained weights and flags."""

from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest
from small_searches import FIT, X, Y, project

import keras_freeze as kf
from keras_freeze import plots, tuning
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


def on_shared(backbone, optimizer=lambda: keras.optimizers.Adam(0.1)):
    """Return a function that puts a new head on a backbone, with the same weights each time."""

    def make():
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((4,)), backbone, keras.layers.Dense(3, activation="softmax")]
        )
        model.compile(optimizer(), "sparse_categorical_crossentropy", run_eagerly=True)
        return model

    return make


def low_and_middle():
    stack = [keras.layers.Dense(6, name="low"), keras.layers.Dense(5, name="middle")]
    return keras.Sequential([keras.Input((4,)), *stack])


def assert_equal(weights, others):
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_array_equal(a, b)


class TestSearchesOfOneBackbone:
    def sweep(self, make, folder, name):
        sweep = tuning.DepthSweep(make, directory=folder, project_name=name)
        sweep.search(X, Y, shuffle=False, **FIT)
        return sweep

    def scores(self, sweep):
        return {row["freeze_depth"]: row["score"] for row in sweep.rows()}

    def test_each_ends_with_the_weights_and_flags_that_were_there(self, tmp_path):
        backbone = low_and_middle()
        at_start = backbone.get_weights()
        sweep = tuning.RandomSearch(
            lambda hp: (model := on_shared(backbone)(), tuning.freeze_depth(hp, model))[0],
            "val_loss",
            max_trials=3,
            **project(tmp_path),
        )
        sweep.search(X, Y, **FIT)
        assert_equal(backbone.get_weights(), at_start)
        assert all(layer.trainable for layer in (backbone, *backbone.layers))

    def test_a_second_search_finds_what_the_first_did(self, tmp_path):
        backbone = low_and_middle()
        first = self.sweep(on_shared(backbone), tmp_path, "one")
        assert self.scores(self.sweep(on_shared(backbone), tmp_path, "two")) == self.scores(first)

    @pytest.mark.parametrize(
        "changed_by", ["the best model", pytest.param("the user", marks=pytest.mark.slow)]
    )
    def test_weights_changed_since_are_put_back_and_not_searched_from(self, changed_by, tmp_path):
        backbone = low_and_middle()
        make = on_shared(backbone)
        first = self.sweep(make, tmp_path, "one")
        if changed_by == "the user":
            backbone.set_weights([w + 1.0 for w in backbone.get_weights()])
        else:
            (best,) = first.get_best_models()
            held = best.get_weights()
        present = backbone.get_weights()
        with pytest.warns(UserWarning, match=r"DepthSweep.*have changed since.*low/kernel"):
            second = self.sweep(make, tmp_path, "two")
        assert self.scores(second) == self.scores(first)
        assert_equal(backbone.get_weights(), present)
        if changed_by == "the best model":
            assert_equal(best.get_weights(), held)

    def test_an_interrupted_one_puts_everything_back_too(self, tmp_path):
        backbone = low_and_middle()
        at_start = backbone.get_weights()

        class Interrupt(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                raise KeyboardInterrupt

        sweep = tuning.DepthSweep(on_shared(backbone), **project(tmp_path), min=0, max=0)
        with pytest.raises(KeyboardInterrupt):
            sweep.search(X, Y, callbacks=[Interrupt()], **FIT)
        assert_equal(backbone.get_weights(), at_start)

    @pytest.mark.slow
    def test_a_model_that_a_search_returned_can_be_searched_with_as_it_is(self, tmp_path):
        """What only one build has is the user's: the next search begins with its weights."""

        def make():
            return on_shared(low_and_middle())()

        (best,) = self.sweep(make, tmp_path, "one").get_best_models()
        found, begun = best.get_weights(), []

        def on_best():
            begun.append(best.get_weights())
            return on_shared(keras.Sequential([keras.Input((4,)), best]))()

        self.sweep(on_best, tmp_path, "two")
        for weights in begun:
            assert_equal(weights, found)


class Folds(tuning.RandomSearch):
    """A cross-validation."""

    def run_trial(self, trial, x, y, **settings):
        scores = []
        for fold in range(2):
            model = self.hypermodel.build(trial.hyperparameters)
            self.begun.append(model.layers[0].get_weights())
            model.fit(x[fold::2], y[fold::2], **settings)
            scores.append(model.evaluate(x[1 - fold :: 2], y[1 - fold :: 2], verbose=0))
        return float(np.mean(scores))


class TestRunTrialOfOnesOwn:
    def folds(self, tmp_path, tuner=Folds, **options):
        backbone = low_and_middle()
        self.at_start = backbone.get_weights()

        def make(hp):
            model = on_shared(backbone)()
            tuning.freeze_depth(hp, model)
            return model

        folds = tuner(make, "val_loss", max_trials=3, seed=0, **options, **project(tmp_path))
        folds.begun = []
        return folds

    def test_each_build_begins_with_the_pretrained_weights(self, tmp_path):
        tuner = self.folds(tmp_path)
        tuner.search(X, Y, epochs=1, verbose=0)
        assert len(tuner.begun) == 6
        for weights in tuner.begun:
            assert_equal(weights, self.at_start)

    def test_its_trials_are_in_the_results(self, tmp_path, capsys):
        tuner = self.folds(tmp_path)
        tuner.search(X, Y, epochs=1, verbose=0)
        rows = tuner.rows()
        scores = {trial.trial_id: trial.score for trial in tuner.oracle.get_best_trials(3)}
        assert {row["trial_id"]: row["score"] for row in rows} == scores
        assert {row["freeze_depth"]: row["trainable_params"] for row in rows} == {
            0: 30 + 35 + 18,
            1: 35 + 18,
            2: 18,
        }
        assert all(row["seconds"] > 0 and row["epochs"] == 0 for row in rows)
        tuner.results_summary()
        assert "the best 3 of 3 trials" in capsys.readouterr().out
        assert len(plots.search(tuner).axes) >= 4

    def test_failures_and_missing_numbers_are_there(self, tmp_path):
        class Odd(Folds):
            def run_trial(self, trial, *args, **settings):
                if trial.hyperparameters.get("freeze_depth") == 0:
                    raise RuntimeError("odd")
                if trial.hyperparameters.get("freeze_depth") == 1:
                    return float("nan")
                return super().run_trial(trial, *args, **settings)

        tuner = self.folds(tmp_path, Odd, max_retries_per_trial=0)
        tuner.search(X, Y, epochs=1, verbose=0)
        rows = {row["values"]["freeze_depth"]: row for row in tuner.rows()}
        said = {depth: (row["status"], row["failures"]) for depth, row in rows.items()}
        assert said[0] == ("FAILED", ["RuntimeError: odd"])
        assert said[1] == ("FAILED", ["val_loss is not a number (NaN)"])
        assert said[2] == ("COMPLETED", [])

    @pytest.mark.slow
    def test_one_that_goes_on_with_ours_is_recorded_once(self, tmp_path):
        class Around(tuning.RandomSearch):
            def run_trial(self, trial, *args, **settings):
                return super().run_trial(trial, *args, **settings)

        tuner = self.folds(tmp_path, Around, executions_per_trial=2)
        tuner.search(X, Y, **FIT)
        assert [(row["executions"], row["epochs"]) for row in tuner.rows()] == [(2, 4)] * 3

    def test_what_it_returns_counts_where_it_goes_on_with_ours(self, tmp_path):
        class Penalized(tuning.RandomSearch):
            def run_trial(self, trial, *args, **settings):
                super().run_trial(trial, *args, **settings)
                return {"val_loss": 10.0 - trial.hyperparameters.get("freeze_depth")}

        tuner = self.folds(tmp_path, Penalized)
        tuner.search(X, Y, **FIT)
        assert {row["freeze_depth"]: row["score"] for row in tuner.rows()} == {0: 10, 1: 9, 2: 8}
