"""Searches from beginning to end: what is written down, restored, retried, resumed."""

import importlib.util
import json
import sys
import warnings
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest

import keras_freeze as kf
from keras_freeze import plots, tuning
from keras_freeze.prefix_cache.sharing import SharedCut
from keras_freeze.tuning import results, spaces, trial_record
from keras_freeze.tuning.trial_cache import TrialCache

rng = np.random.default_rng(0)
X = rng.normal(size=(32, 4)).astype("float32")
Y = rng.integers(0, 3, 32)
STOCK = ("RandomSearch", "BayesianOptimization", "Hyperband", "GridSearch")
DATA = {"validation_data": (X, Y), "epochs": 2, "verbose": 0}


@pytest.fixture
def build(plain):
    def make(hp=None):
        model = plain()
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    return make


def with_depth(build):
    def make(hp):
        model = build()
        tuning.freeze_depth(hp, model)
        return model

    return make


def project(tmp_path):
    return {"directory": tmp_path, "project_name": "search"}


class TestDepthSweep:
    def test_every_depth_the_deepest_first(self, build, tmp_path):
        sweep = tuning.DepthSweep(build, **project(tmp_path))
        sweep.search(X, Y, **DATA)
        order = sweep.oracle.start_order
        by_id = {row["trial_id"]: row for row in sweep.rows()}
        assert [by_id[i]["freeze_depth"] for i in order] == [2, 1, 0]
        assert [by_id[i]["trainable_params"] for i in order] == [18, 53, 83]
        assert [by_id[i]["non_trainable_params"] for i in order] == [65, 30, 0]

    def test_it_says_what_depth_counts(self, build, tmp_path, capsys):
        sweep = tuning.DepthSweep(build, max=0, **project(tmp_path))
        sweep.search(X, Y, **{**DATA, "verbose": 2})
        said = "counts layer groups from the input: low, middle. The head (head) always trains."
        assert said in capsys.readouterr().out

    def test_a_build_function_without_arguments(self, plain, tmp_path):
        def make():
            model = plain()
            model.compile("sgd", "sparse_categorical_crossentropy")
            return model

        sweep = tuning.DepthSweep(make, max=1, executions_per_trial=2, **project(tmp_path))
        sweep.search(X, Y, **DATA)
        rows = sweep.rows()
        assert sorted(row["freeze_depth"] for row in rows) == [0, 1]
        assert all(row["executions"] == 2 and row["score_std"] >= 0 for row in rows)

    @pytest.mark.parametrize("unit", ["layer", "fraction"])
    def test_other_units(self, build, unit, tmp_path):
        sweep = tuning.DepthSweep(build, unit=unit, **project(tmp_path))
        sweep.search(X, Y, **DATA)
        found = {row["freeze_depth"]: row["trainable_params"] for row in sweep.rows()}
        assert {min(found), max(found)} == {0, 2 if unit == "layer" else 1.0}
        assert sorted(found.values()) == [18, 53, 83]

    def test_a_finished_sweep_in_another_process(self, build, tmp_path, monkeypatch):
        sweep = tuning.DepthSweep(build, **project(tmp_path))
        sweep.search(X, Y, **DATA)
        monkeypatch.setattr(spaces, "_asked", {})  # what a process knows at its beginning
        again = tuning.DepthSweep(build, **project(tmp_path))
        again.search(X, Y, **DATA)
        assert again.rows() == sweep.rows()

    def test_a_hypermodel(self, build, tmp_path):
        class Model(keras_tuner.HyperModel):
            def declare_hyperparameters(self, hp):
                hp.Fixed("declared", 1)

            def build(self, hp):
                assert hp.get("declared") == 1
                return build()

            def fit(self, hp, model, *args, **kwargs):
                return model.fit(*args, **kwargs).history["val_loss"][-1]

        sweep = tuning.DepthSweep(Model(), **project(tmp_path))
        sweep.search(X, Y, **DATA)
        assert {row["freeze_depth"] for row in sweep.rows()} == {0, 1, 2}

    def test_arguments_with_defaults_are_left_alone(self, build, tmp_path):
        def make(units=3):
            assert units == 3
            return build()

        tuning.DepthSweep(make, **project(tmp_path))

    def test_a_depth_beside_a_range(self, build, tmp_path):
        with pytest.raises(ValueError, match="for none where min= or max= are given"):
            tuning.DepthSweep(with_depth(build), min=1, **project(tmp_path))

    def test_the_same_model_each_time(self, build, tmp_path):
        model = build()
        sweep = tuning.DepthSweep(lambda: model, **project(tmp_path))
        with pytest.raises(ValueError, match="must return a new model each time"):
            sweep.search(X, Y, **DATA)

    def test_it_goes_on_where_it_was(self, build, tmp_path):
        class Killed(BaseException):
            pass

        def stopping(hp=None):
            if len(list(Path(tmp_path).glob("search/trial_*/best.npz"))) == 1:
                raise Killed
            return build()

        sweep = tuning.DepthSweep(build, **project(tmp_path))
        sweep.hypermodel._user_build = stopping
        with pytest.raises(Killed):
            sweep.search(X, Y, **DATA)
        finished = [row for row in sweep.rows() if row["score"] is not None]
        assert len(finished) == 1
        again = tuning.DepthSweep(build, **project(tmp_path))
        again.search(X, Y, **DATA)
        rows = {row["freeze_depth"]: row for row in again.rows()}
        assert set(rows) == {0, 1, 2}
        assert rows[2] == finished[0]

    def test_two_depths_are_one_too_many(self, build, tmp_path):
        def make(hp):
            model = build()
            tuning.freeze_depth(hp, model, name="one")
            tuning.freeze_depth(hp, model, name="two")
            return model

        with pytest.raises(ValueError, match="must ask for one freeze depth"):
            tuning.DepthSweep(make, **project(tmp_path))


class TestTrials:
    def search(self, build, tmp_path, **settings):
        tuner = tuning.RandomSearch(
            with_depth(build), "val_accuracy", max_trials=3, seed=0, **project(tmp_path)
        )
        tuner.search(X, Y, **{**DATA, **settings})
        return tuner

    def test_no_warning_and_no_tensorboard(self, build, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "__array__ implementation")  # Keras's and NumPy's
            tuner = self.search(build, tmp_path)
        assert [row["status"] for row in tuner.rows()] == ["COMPLETED"] * 3

    def test_nothing_is_tried_twice(self, build, tmp_path):
        tuner = self.search(build, tmp_path)
        assert sorted(row["freeze_depth"] for row in tuner.rows()) == [0, 1, 2]

    def test_a_used_up_space_ends_the_search(self, build, tmp_path):
        tuner = tuning.BayesianOptimization(
            with_depth(build), "val_accuracy", max_trials=9, seed=0, **project(tmp_path)
        )
        tuner.search(X, Y, **DATA)
        assert sorted(row["freeze_depth"] for row in tuner.rows()) == [0, 1, 2]

    @pytest.mark.parametrize("is_first", [True, False])
    def test_schedules_are_written_down(self, build, is_first, tmp_path):
        class Model(keras_tuner.HyperModel):
            def build(self, hp):
                return build()

            def fit(self, hp, model, *args, callbacks=(), **kwargs):
                callback = tuning.schedule(hp, choices=[1], verbose=0)
                order = [callback, *callbacks] if is_first else [*callbacks, callback]
                return model.fit(*args, callbacks=order, **kwargs)

        tuner = tuning.RandomSearch(Model(), "val_loss", max_trials=1, **project(tmp_path))
        tuner.search(X, Y, **{**DATA, "epochs": 4})
        (record,) = trial_record.read_all(Path(tuner.project_dir))
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

    def test_every_trial_begins_with_the_pretrained_weights(self, tmp_path):
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
            model.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
            tuning.freeze_depth(hp, model)
            return model

        tuner = tuning.RandomSearch(make, "val_loss", max_trials=2, seed=0, **project(tmp_path))
        Note.__deepcopy__ = lambda self, memo: self
        tuner.search(X, Y, callbacks=[Note()], **DATA)
        assert len(begun) >= 3
        assert sorted(changed) == [False, True]  # frozen in one trial, trained in the other
        for weights in begun:
            for a, b in zip(at_start, weights, strict=True):
                np.testing.assert_array_equal(a, b)

    def test_what_a_trial_thaws_of_a_shared_backbone_is_frozen_in_the_next(self, tmp_path):
        backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, name="low")])
        backbone.trainable = False

        class Model(keras_tuner.HyperModel):
            def build(self, hp):
                model = keras.Sequential([keras.Input((4,)), backbone, keras.layers.Dense(3)])
                model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), "mse")
                return model

            def fit(self, hp, model, *args, **kwargs):
                model.fit(*args, **kwargs)
                kf.unfreeze(model, matching=".")
                return model.fit(*args, **kwargs)

        tuner = tuning.RandomSearch(Model(), "val_loss", max_trials=3, **project(tmp_path))
        y = np.zeros((32, 3))
        tuner.search(X, y, **{**DATA, "validation_data": (X, y)})
        for record in trial_record.read_all(Path(tuner.project_dir)):
            assert [part.trainable_params for part in record.executions[0].parts] == [21, 51]

    def test_two_architectures_after_a_restart(self, build, tmp_path, monkeypatch):
        deeper = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(3) for _ in range(5))])

        def make(hp):
            model = deeper if hp.Choice("arch", ["plain", "deeper"]) == "deeper" else build()
            tuning.freeze_depth(hp, model)
            return model

        def new():
            return tuning.RandomSearch(make, "val_loss", max_trials=1, **project(tmp_path))

        new().save()
        monkeypatch.setattr(spaces, "_asked", {})  # what a process knows at its beginning
        hp = new().oracle.get_space()
        hp.values["arch"] = "deeper"
        names = [parameter.name for parameter in hp.space]
        assert names == ["arch", "freeze_depth"]
        make(hp)
        assert [parameter.name for parameter in hp.space] == [*names, "freeze_depth_0_4"]

    def test_a_cache_of_ones_own_has_its_limits_in_each_trial(self, build, tmp_path):
        model = build()
        kf.freeze(model, groups=2)
        limits = kf.PrefixCache(max_bytes=0, directory=tmp_path / "absent", auto=False, verbose=0)
        with pytest.warns(UserWarning, match="features can't be written.*absent"):
            model.fit(X, Y, epochs=2, verbose=0, callbacks=[TrialCache(limits)])

    def test_the_best_model_is_as_at_its_best_epoch(self, build, tmp_path):
        kept = {}

        class Keep(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                model = self.model
                kept[logs["val_loss"]] = (
                    model.get_weights(),
                    [v.trainable for v in model.weights],
                    [np.asarray(v) for v in model.optimizer.variables],
                )

        def slower(hp):
            model = build()
            model.optimizer.learning_rate = 0.5  # so that the last epoch is not the best
            tuning.freeze_depth(hp, model)
            return model

        tuner = tuning.RandomSearch(slower, "val_loss", max_trials=3, seed=0, **project(tmp_path))
        Keep.__deepcopy__ = lambda self, memo: self
        tuner.search(X, Y, **{**DATA, "epochs": 4, "callbacks": [Keep()]})
        (model,) = tuner.get_best_models()
        best = results.best_first(tuner.rows(), "min")[0]
        weights, flags, optimizer = kept[best["score"]]
        for a, b in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert flags == [v.trainable for v in model.weights]
        for a, b in zip(optimizer, model.optimizer.variables, strict=True):
            np.testing.assert_array_equal(a, np.asarray(b))

    def test_several_best_models(self, build, tmp_path):
        tuner = self.search(build, tmp_path)
        models = tuner.get_best_models(3)
        scores = [m.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"] for m in models]
        expected = [trial.score for trial in tuner.oracle.get_best_trials(3)]
        np.testing.assert_allclose(scores, expected, rtol=1e-6)
        tuner.get_best_models(2)
        again = [m.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"] for m in models]
        assert again == scores

    def test_best_models_that_share_layers(self, tmp_path):
        backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, name="low")])

        def make(hp):
            hp.Float("unused", 0.0, 1.0)
            model = keras.Sequential(
                [keras.Input((4,)), backbone, keras.layers.Dense(3, activation="softmax")]
            )
            model.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
            return model

        tuner = tuning.RandomSearch(make, "val_loss", max_trials=2, seed=0, **project(tmp_path))
        tuner.search(X, Y, **DATA)
        with pytest.warns(UserWarning, match="models that share layers"):
            best, _ = tuner.get_best_models(2)
        score = tuner.oracle.get_best_trials()[0].score
        np.testing.assert_allclose(best.evaluate(X, Y, verbose=0), score, rtol=1e-6)

    def test_batch_norm_modes_come_back(self, batch_norm, data_for, tmp_path):
        def make(hp):
            model = batch_norm()
            model.compile("adam", "sparse_categorical_crossentropy")
            tuning.freeze_depth(hp, model, min=1, batch_norm="train")
            return model

        x, y = data_for(batch_norm())
        tuner = tuning.RandomSearch(make, "val_loss", max_trials=1, **project(tmp_path))
        tuner.search(x, y, epochs=1, verbose=0, validation_data=(x, y))
        (model,) = tuner.get_best_models()
        expected = make(tuner.get_best_hyperparameters()[0])
        for layer, other in zip(model.layers, expected.layers, strict=True):
            assert layer.trainable == other.trainable
        assert [v.trainable for v in model.weights] == [v.trainable for v in expected.weights]

    def test_a_loop_of_ones_own(self, build, tmp_path):
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

    def test_a_fit_without_the_callbacks(self, build, tmp_path, capsys):
        class Model(keras_tuner.HyperModel):
            def build(self, hp):
                return build()

            def fit(self, hp, model, x, y, **kwargs):
                return model.fit(x, y, verbose=0).history["loss"][0]

        tuner = tuning.RandomSearch(Model(), "val_loss", max_trials=1, **project(tmp_path))
        tuner.search(X, Y)
        tuner.results_summary()
        assert tuner.rows()[0]["status"] == "COMPLETED"
        with pytest.raises(ValueError, match="at least one trial that is complete, and of which"):
            plots.search(tuner)
        with pytest.raises(ValueError, match="must have kept its model"):
            tuner.get_best_models()

    def test_two_fits_in_a_trial(self, build, tmp_path):
        class Model(keras_tuner.HyperModel):
            def build(self, hp):
                model = build()
                tuning.freeze_depth(hp, model, min=2)
                return model

            def fit(self, hp, model, *args, **kwargs):
                model.fit(*args, **kwargs)
                kf.unfreeze(model, matching=".")
                return model.fit(*args, **kwargs)

        tuner = tuning.RandomSearch(Model(), "val_loss", max_trials=1, **project(tmp_path))
        tuner.search(X, Y, **DATA)
        (record,) = trial_record.read_all(Path(tuner.project_dir))
        (execution,) = record.executions
        assert [(p.epoch, p.trainable_params) for p in execution.parts] == [(0, 18), (2, 83)]
        assert len(execution.epoch_s) == 4

    def test_no_number_in_the_first_epoch(self, build, tmp_path):
        class Late(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch == 0:
                    logs["val_loss"] = float("nan")

        tuner = tuning.RandomSearch(
            lambda hp: build(), "val_loss", max_trials=1, **project(tmp_path)
        )
        with pytest.raises(RuntimeError, match=r"none is complete.*not a number \(NaN\)"):
            tuner.search(X, Y, callbacks=[Late()], **DATA)
        (record,) = trial_record.read_all(Path(tuner.project_dir))
        assert record.executions[0].best_epoch == 1

    @pytest.mark.parametrize(
        "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory")]
    )
    def test_kinds_of_out_of_memory(self, build, error, tmp_path):
        class Model(keras_tuner.HyperModel):
            def build(self, hp):
                return build()

            def fit(self, hp, model, *args, **kwargs):
                raise error

        tuner = tuning.RandomSearch(Model(), "val_loss", max_trials=1, **project(tmp_path))
        with pytest.raises(RuntimeError, match="none is complete"):
            tuner.search(X, Y, **DATA)
        (row,) = tuner.rows()
        assert (row["status"], len(row["failures"]), row["score"]) == ("FAILED", 1, None)

    def test_a_trial_in_which_the_process_is_killed_again_and_again(self, build, tmp_path):
        class Killed(BaseException):
            pass

        def new():
            return tuning.RandomSearch(
                lambda hp: build(), "val_loss", max_trials=1, **project(tmp_path)
            )

        tuner = new()
        tuner.search(X, Y, **DATA)
        folder = Path(tuner.project_dir) / "trial_0"
        record = trial_record.read(folder)
        record.is_running, record.killed = True, 2
        record.save(folder)
        trial = tuner.oracle.trials["0"]
        trial.status = "RUNNING"
        tuner.oracle._save_trial(trial)
        with pytest.raises(RuntimeError, match=r"none is complete.*killed 3 times in this trial"):
            new().search(X, Y, **DATA)
        (row,) = tuner.rows()
        assert row["status"] == "FAILED"
        assert "killed 3 times in this trial" in row["failures"][-1]

    def test_failed_trials(self, build, tmp_path, capsys):
        attempts = []

        def failing(hp):
            model = build()
            depth = tuning.freeze_depth(hp, model)
            attempts.append(depth)
            if len(attempts) > 1 and depth == 1:  # the first call only asks for the space
                raise RuntimeError("broken at 1")
            return model

        tuner = tuning.RandomSearch(failing, "val_loss", max_trials=3, seed=0, **project(tmp_path))
        tuner.search(X, Y, **DATA)
        by_depth = {row["values"]["freeze_depth"]: row for row in tuner.rows()}
        assert [by_depth[n]["status"] for n in range(3)] == ["COMPLETED", "FAILED", "COMPLETED"]
        assert by_depth[1]["failures"] == ["RuntimeError: broken at 1"] * 2
        assert len(tuner.get_best_models(3)) == 2
        assert len(tuner.get_best_hyperparameters(3)) == 2
        tuner.results_summary()
        assert "broken at 1" in capsys.readouterr().out

    def test_an_objective_that_is_not_logged(self, build, tmp_path):
        sweep = tuning.DepthSweep(build, **project(tmp_path))
        message = (
            r"must be among the logs of fit\. Received: 'val_loss', but the logs are accuracy, "
        )
        with pytest.raises(keras_tuner.errors.FatalValueError, match=message + "loss.*validation_"):
            sweep.search(X, Y, epochs=1, verbose=0)
        (record,) = trial_record.read_all(Path(sweep.project_dir))
        assert "must be among the logs" in record.failures[0]
        assert not record.is_running

    def test_a_metric_of_several_values(self, build, tmp_path):
        def make():
            model = build()
            f1 = keras.metrics.F1Score(name="f1")
            model.compile("sgd", "categorical_crossentropy", metrics=[f1])
            return model

        sweep = tuning.DepthSweep(make, max=0, **project(tmp_path))
        targets = keras.utils.to_categorical(Y)
        sweep.search(X, targets, **{**DATA, "validation_data": (X, targets)})
        (record,) = trial_record.read_all(Path(sweep.project_dir))
        assert record.failures == []
        assert [len(values) for values in record.executions[0].history["f1"]] == [3, 3]

    def test_out_of_memory_is_not_tried_again(self, build, tmp_path):
        def large(hp):
            hp.Int("n", 0, 5)
            if hp.get("n") != hp.space[0].default:
                raise MemoryError("OOM when allocating tensor")
            return build()

        tuner = tuning.RandomSearch(large, "val_loss", max_trials=3, seed=0, **project(tmp_path))
        tuner.search(X, Y, **DATA)
        failed = [row for row in tuner.rows() if row["status"] == "FAILED"]
        assert failed and all(len(row["failures"]) == 1 for row in failed)

    def test_no_number_is_tried_again_without_the_old_value(self, build, tmp_path):
        runs = []

        def sometimes(hp):
            model = build()
            runs.append(hp.Int("n", 0, 0))
            loss = "sparse_categorical_crossentropy"
            if len(runs) == 3:  # after two for the space
                loss = lambda y, p: keras.ops.sum(p) * float("nan")  # noqa: E731
            model.compile("sgd", loss)
            return model

        tuner = tuning.RandomSearch(sometimes, "val_loss", max_trials=1, **project(tmp_path))
        tuner.search(X, Y, **DATA)
        (row,) = tuner.rows()
        assert row["status"] == "COMPLETED"
        assert row["failures"] == ["val_loss is not a number (NaN)"]
        (trial,) = tuner.oracle.get_best_trials()
        assert np.isfinite(trial.score) and trial.score == row["score"]

    def test_a_worker_may_not_overwrite(self, build, tmp_path, monkeypatch):
        monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
        monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "8123")
        monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker_1")
        with pytest.raises(ValueError, match="must not be True on a worker"):
            tuning.DepthSweep(build, overwrite=True, **project(tmp_path))

    def test_a_folder_with_another_search(self, build, tmp_path):
        tuning.DepthSweep(build, **project(tmp_path))

        def wider():
            model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(9) for _ in "abc")])
            model.compile("sgd", "mse")
            return model

        for other, said in (
            ({"objective": "val_accuracy"}, "one with objective val_loss instead of val_accuracy"),
            ({"executions_per_trial": 2}, "one with executions_per_trial 1 instead of 2"),
            ({"max": 1}, "one with max None instead of 1"),
            ({"build": wider}, "one with model 6 weights, 83 numbers instead of 6 weights, 225"),
        ):
            with pytest.raises(ValueError, match=f"a folder without another search.*{said}"):
                tuning.DepthSweep(**{"build": build, **other}, **project(tmp_path))
        with pytest.raises(ValueError, match="one with search DepthSweep instead of RandomSearch"):
            tuning.RandomSearch(with_depth(build), "val_loss", **project(tmp_path))
        tuning.DepthSweep(build, **project(tmp_path))
        tuning.RandomSearch(with_depth(build), "val_loss", overwrite=True, **project(tmp_path))

    def test_when_every_trial_fails(self, build, tmp_path):
        def make():
            model = build()
            model.compiled = False
            return model

        message = r"of 3 trials in .* none is complete. Pass overwrite=True.*must call `compile"
        with pytest.raises(RuntimeError, match=message):
            tuning.DepthSweep(make, **project(tmp_path)).search(X, Y, **DATA)
        again = tuning.DepthSweep(build, **project(tmp_path))
        with pytest.raises(RuntimeError, match=message):
            again.search(X, Y, **DATA)
        with pytest.raises(ValueError, match=message):
            again.get_best_models()

    def test_models_that_are_too_large_count_with_what_is_frozen(self, build, tmp_path):
        tuner = tuning.RandomSearch(
            with_depth(build), "val_loss", max_trials=3, max_model_size=82, **project(tmp_path)
        )
        with pytest.raises(RuntimeError, match="none is complete"):
            tuner.search(X, Y, **DATA)
        assert [row["status"] for row in tuner.rows()] == ["FAILED"] * 3
        assert all(
            "83 parameters, more than max_model_size=82" in row["failures"][0]
            for row in tuner.rows()
        )


class TestKilled:
    """What is on disk when the process is killed at some moment between two writes."""

    def search(self, build, tmp_path):
        tuner = tuning.RandomSearch(
            with_depth(build), "val_loss", max_trials=3, seed=0, **project(tmp_path)
        )
        tuner.search(X, Y, **DATA)
        return tuner

    def test_before_a_trial_has_ended(self, build, tmp_path):
        tuner = self.search(build, tmp_path)
        before = tuner.rows()
        trial = tuner.oracle.trials["1"]
        trial.status = "RUNNING"  # its value is reported already
        tuner.oracle._save_trial(trial)
        after = self.search(build, tmp_path)
        assert [row["status"] for row in after.rows()] == ["COMPLETED"] * 3
        assert after.rows()[0] == before[0] and after.rows()[2] == before[2]
        assert after.oracle.trials["1"].score == after.rows()[1]["score"]

    def test_a_trial_that_has_ended_is_not_repeated(self, build, tmp_path):
        tuner = self.search(build, tmp_path)
        before = tuner.rows()
        tuner.oracle.ongoing_trials = {"tuner0": tuner.oracle.trials["2"]}
        tuner.oracle.end_order.remove("2")
        tuner.oracle.save()
        after = self.search(build, tmp_path)
        assert after.rows() == before
        assert after.oracle.end_order == [*tuner.oracle.end_order, "2"]

    def test_files_are_whole(self, build, tmp_path, monkeypatch):
        tuner = self.search(build, tmp_path)
        file = Path(tuner.project_dir) / "oracle.json"
        whole = file.read_text()

        def broken(path, obj):
            Path(path).write_text('{"half')
            raise OSError("killed")

        monkeypatch.setattr("keras_tuner.src.utils.save_json", broken)
        with pytest.raises(OSError, match="killed"):
            tuner.oracle.save()
        assert file.read_text() == whole
        monkeypatch.setattr(tuner.oracle, "save", lambda: None)
        of_tuner = file.with_name("tuner0.json")
        whole = of_tuner.read_text()
        with pytest.raises(OSError, match="killed"):
            tuner.save()
        assert of_tuner.read_text() == whole

    def test_the_first_trial_is_begun_again_too(self, build, tmp_path, capsys):
        class Kill(keras.callbacks.Callback):
            def on_train_begin(self, logs=None):
                raise KeyboardInterrupt

        sweep = tuning.DepthSweep(build, **project(tmp_path))
        with pytest.raises(KeyboardInterrupt):
            sweep.search(X, Y, callbacks=[Kill()], **DATA)
        again = tuning.DepthSweep(build, **project(tmp_path))
        assert "Reloading" in capsys.readouterr().out
        again.search(X, Y, **DATA)
        assert len(again.rows()) == 3
        assert [row["status"] for row in again.rows()] == ["COMPLETED"] * 3


class TestHyperband:
    def search(self, build, tmp_path, capsys, schedule, **options):
        tuner = tuning.Hyperband(
            build, "val_loss", max_epochs=4, factor=2, seed=0, **options, **project(tmp_path)
        )
        tuner.search(X, Y, callbacks=[schedule], **{**DATA, "epochs": 1})
        return tuner, capsys.readouterr().out

    def test_epochs_are_absolute_and_nothing_freezes_again(self, build, tmp_path, capsys):
        def make(hp):
            hp.Float("unused", 0.0, 1.0)
            return build()

        tuner, said = self.search(make, tmp_path, capsys, kf.GradualUnfreeze(1, verbose=0))
        assert "the last phase of the schedule begins at epoch 2" in said
        assert "Rungs that end after 1, 2 epochs" in said
        by_id = {
            record.trial_id: record for record in trial_record.read_all(Path(tuner.project_dir))
        }
        went_on = [r for r in by_id.values() if "tuner/trial_id" in r.values]
        assert went_on
        for record in went_on:
            before = by_id[record.values["tuner/trial_id"]].executions[0]
            after = record.executions[0]
            begun = before.initial_epoch + len(before.epoch_s)
            assert after.initial_epoch == begun == record.values["tuner/initial_epoch"]
            assert after.parts[0].trainable_params >= before.parts[-1].trainable_params
            assert after.parts[0].epoch == begun

    def test_a_small_space_is_halved_too(self, build, tmp_path):
        tuner = tuning.Hyperband(
            with_depth(build), "val_loss", max_epochs=4, factor=2, seed=0, **project(tmp_path)
        )
        tuner.search(X, Y, **{**DATA, "epochs": 1})
        rows = tuner.rows()
        first = [row for row in rows if row["values"]["tuner/round"] == 0]
        assert sorted(row["freeze_depth"] for row in first) == [0, 1, 2]
        later = [row["values"]["tuner/epochs"] for row in rows if row not in first]
        assert later == [2, 2, 4]

    def test_a_trial_that_was_stopped_early_goes_on_from_there(self, build, tmp_path):
        def make(hp):
            hp.Float("unused", 0.0, 1.0)
            return build()

        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = epoch == 0

        tuner = tuning.Hyperband(
            make, "val_loss", max_epochs=4, factor=2, seed=0, **project(tmp_path)
        )
        tuner.search(X, Y, callbacks=[Stop()], **{**DATA, "epochs": 1})
        by_id = {
            record.trial_id: record for record in trial_record.read_all(Path(tuner.project_dir))
        }
        went_on = [r for r in by_id.values() if "tuner/trial_id" in r.values]
        assert went_on
        for record in went_on:
            before = by_id[record.values["tuner/trial_id"]].executions[0]
            assert record.executions[0].initial_epoch == before.end

    def test_a_schedule_that_depends_on_logs(self, build, tmp_path, capsys):
        schedule = kf.GradualUnfreeze(kf.schedules.OnPlateau("val_loss"), verbose=0)
        with pytest.raises(ValueError, match="begins by logs or steps"):
            self.search(lambda hp: build(), tmp_path, capsys, schedule)

    def test_a_schedule_made_in_fit(self, build, tmp_path):
        class Model(keras_tuner.HyperModel):
            def build(self, hp):
                hp.Float("unused", 0.0, 1.0)
                return build()

            def fit(self, hp, model, *args, callbacks=(), **kwargs):
                schedule = tuning.schedule(hp, choices=[3], verbose=0)
                return model.fit(*args, callbacks=[schedule, *callbacks], **kwargs)

        tuner = tuning.Hyperband(
            Model(),
            "val_loss",
            max_epochs=4,
            factor=2,
            seed=0,
            max_consecutive_failed_trials=2,
            **project(tmp_path),
        )
        with pytest.raises(RuntimeError, match="must reach every phase of"):
            tuner.search(X, Y, **{**DATA, "epochs": 1})
        # The one that ends the search would be tried again if that were begun again.
        assert [row["status"] for row in tuner.rows()] == ["FAILED", "RUNNING"]
        for row in tuner.rows():  # once, since another attempt would not reach it either
            (failure,) = row["failures"]
            assert "must reach every phase" in failure
            assert "the last begins at epoch 6. Received: max_epochs=4. Pass more, or" in failure

    @pytest.mark.filterwarnings("ignore:Your input ran out of data")  # which says how long it is
    def test_data_of_unknown_length(self, build, tmp_path):
        def make(hp):
            hp.Float("unused", 0.0, 1.0)
            return build()

        tuner = tuning.Hyperband(make, "loss", max_epochs=4, factor=2, seed=0, **project(tmp_path))

        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).filter(lambda x, y: True)
        tuner.search(data, shuffle=False, verbose=0, callbacks=[kf.GradualUnfreeze(1, verbose=0)])
        rows = tuner.rows()
        assert any("tuner/trial_id" in row["values"] for row in rows)
        assert [row["failures"] for row in rows] == [[]] * len(rows)

    def test_each_execution_goes_on_from_its_own_end(self, tmp_path):
        begun, ended = {}, {}

        class Model(keras_tuner.HyperModel):
            def build(self, hp):
                hp.Float("unused", 0.0, 1.0)
                model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
                model.compile("sgd", "mse")
                return model

            def fit(self, hp, model, *args, **kwargs):
                key = hp.values["unused"], hp.values["tuner/epochs"]
                begun.setdefault(key, []).append(model.get_weights()[0].tolist())
                history = model.fit(*args, **kwargs)
                ended.setdefault(key, []).append(model.get_weights()[0].tolist())
                return history

        tuner = tuning.Hyperband(
            Model(),
            "val_loss",
            max_epochs=2,
            factor=2,
            seed=0,
            executions_per_trial=2,
            **project(tmp_path),
        )
        y = np.zeros((32, 3))
        tuner.search(X, y, **{**DATA, "validation_data": (X, y)})
        went_on = [row["values"] for row in tuner.rows() if "tuner/trial_id" in row["values"]]
        assert went_on
        for values in went_on:
            assert begun[values["unused"], 2] == ended[values["unused"], 1]
            assert ended[values["unused"], 1][0] != ended[values["unused"], 1][1]

    def test_many_rounds_of_a_small_space(self, build, tmp_path):
        tuner = tuning.Hyperband(
            with_depth(build),
            "val_loss",
            max_epochs=2,
            factor=2,
            seed=0,
            hyperband_iterations=2000,
            **project(tmp_path),
        )
        tuner.search(X, Y, **{**DATA, "epochs": 1})
        first = [row for row in tuner.rows() if row["values"]["tuner/round"] == 0]
        assert sorted(row["freeze_depth"] for row in first) == [0, 1, 2]

    def test_other_rungs_than_those_of_the_search(self, build, tmp_path):
        def new(max_epochs):
            size = {"max_epochs": max_epochs, "factor": 2}
            return tuning.Hyperband(with_depth(build), "val_loss", **size, **project(tmp_path))

        new(4).save()
        new(4)
        with pytest.raises(ValueError, match=r"max_epochs=8.*rungs that end after 1, 2, 4 epochs"):
            new(8)

    def test_its_summary_holds_what_was_searched(self, build, tmp_path, capsys):
        def make(hp):
            for n in range(8):
                hp.Choice(f"a_rather_long_name_of_number_{n}", [0.123456789, 1.0])
            return with_depth(build)(hp)

        tuner = tuning.Hyperband(make, "val_loss", max_epochs=2, factor=2, **project(tmp_path))
        tuner.search(X, Y, **{**DATA, "epochs": 1})
        capsys.readouterr()
        tuner.results_summary()
        said = capsys.readouterr().out
        assert "a_rather_long_name_of_number_7" in said
        assert "tuner/" not in said and "…" not in said
        assert " epochs " in said

    def test_a_phase_beyond_all_epochs(self, build, tmp_path, capsys):
        with pytest.raises(ValueError, match="must reach every phase of"):
            self.search(build, tmp_path, capsys, kf.GradualUnfreeze(3, verbose=0))


@pytest.mark.filterwarnings("ignore")  # KerasTuner's own, on this stack
@pytest.mark.parametrize(
    "kind", ["RandomSearch", "BayesianOptimization", "Hyperband", "GridSearch"]
)
def test_stock_tuners(build, kind, tmp_path):
    pytest.importorskip("tensorboard")
    size = {"max_epochs": 2} if kind == "Hyperband" else {"max_trials": 3}
    tuner = getattr(keras_tuner, kind)(
        with_depth(build), "val_loss", seed=0, **size, **project(tmp_path)
    )
    tuner.search(X, Y, **DATA)
    depths = {trial.hyperparameters.get("freeze_depth") for trial in tuner.oracle.trials.values()}
    assert len(depths) > 1


class TestResults:
    COLUMNS = ("freeze_depth", "trainable_params", "non_trainable_params", "score")

    @pytest.fixture
    def sweep(self, build, tmp_path):
        sweep = tuning.DepthSweep(build, min=1, executions_per_trial=2, **project(tmp_path))
        sweep.search(X, Y, **DATA)
        return sweep

    def test_a_frame(self, sweep):
        pandas = pytest.importorskip("pandas")
        frame = sweep.results_frame()
        assert isinstance(frame, pandas.DataFrame)
        by_depth = frame.set_index("freeze_depth")
        assert by_depth.loc[2, "trainable_params"] == 18
        assert by_depth.loc[2, "non_trainable_params"] == 65
        assert set(self.COLUMNS) <= set(frame.columns)

    def test_a_list_of_rows_without_pandas(self, sweep, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "pandas" else find(name)
        )
        rows = sweep.results_frame()
        assert rows == sweep.rows()
        assert all(set(self.COLUMNS) <= set(row) for row in rows)

    def test_a_summary(self, sweep, capsys):
        sweep.results_summary()
        said = capsys.readouterr().out
        best = results.best_first(sweep.rows(), "min")[0]
        for part in ("val_loss", "depth", "trainable", "frozen", "seconds", "18", "65"):
            assert part in said
        assert f"{best['score']:.4f} ± {best['score_std']:.4f}" in said
        assert "freeze_depth" not in said  # which is the depth
        assert "epochs" not in said  # which are the same


def test_the_file_is_plain_json(build, tmp_path):
    sweep = tuning.DepthSweep(build, max=0, **project(tmp_path))
    sweep.search(X, Y, **DATA)
    (file,) = Path(sweep.project_dir).glob("trial_*/keras_freeze.json")
    assert json.loads(file.read_text())["freeze_depth"] == 0


def test_known_counts(tmp_path):
    def build(hp):
        backbone = keras.applications.VGG16(
            include_top=False, weights=None, input_shape=(224, 224, 3)
        )
        x = keras.layers.Dense(128)(keras.layers.Flatten()(backbone.output))
        model = keras.Model(backbone.input, keras.layers.Dense(10)(x))
        model.compile("sgd", "mse")
        tuning.freeze_depth(hp, model, unit="layer", min=10, max=10)
        return model

    tuner = tuning.RandomSearch(build, "loss", max_trials=1, **project(tmp_path))
    tuner.search(np.zeros((1, 224, 224, 3)), np.zeros((1, 10)), epochs=1, verbose=0)
    (row,) = tuner.rows()
    assert (row["trainable_params"], row["non_trainable_params"]) == (16_191_882, 1_735_488)


class TestSharedFeatures:
    """Trials that freeze the same weights share what these compute; scores stay the same."""

    def deep(self, channels=4):
        base = self.base

        def build(hp):
            model = keras.models.clone_model(base)
            model.set_weights(base.get_weights())
            rate = hp.Choice("rate", [0.1, 0.01])
            model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
            tuning.freeze_depth(hp, model)
            return model

        return build

    @pytest.fixture(autouse=True)
    def pretrained(self, batch_norm):
        self.base = batch_norm()
        shape = (20, *self.base.input_shape[1:])
        self.x = rng.normal(size=shape).astype("float32")
        self.y = rng.integers(0, 3, 20)

    def scores(self, tmp_path, cache, **options):
        keras.utils.set_random_seed(0)
        settings = {"max_trials": 6, "seed": 0, "cache": cache, **options}
        tuner = tuning.RandomSearch(
            self.deep(), "val_loss", directory=tmp_path, project_name=str(cache), **settings
        )
        data = {"validation_data": (self.x, self.y), "epochs": 3, "verbose": 0, "batch_size": 8}
        tuner.search(self.x, self.y, shuffle=False, **data)
        return {tuple(sorted(row["values"].items())): row["score"] for row in tuner.rows()}

    def test_scores_are_the_same(self, tmp_path, monkeypatch):
        monkeypatch.setattr("keras_freeze.prefix_cache.planning.MIN_WORK", 0)
        monkeypatch.setattr("keras_freeze.prefix_cache.planning.MIN_SHARE", 0)
        adopted, adopt = [], SharedCut.adopt
        monkeypatch.setattr(
            SharedCut, "adopt", lambda self, *args: adopted.append(self) or adopt(self, *args)
        )
        shared = self.scores(tmp_path, True)
        assert adopted
        adopted.clear()
        assert shared == self.scores(tmp_path, False)
        assert not adopted
