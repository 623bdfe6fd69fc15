"""What every tuner does with a trial: what is restored, retried, refused, resumed."""

import shutil
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest
from small_searches import FIT, Untrained, X, Y, build, build_with_depth, project

from keras_freeze import plots, tuning
from keras_freeze.tuning import results, trial_record


def random_search(hypermodel, folder, **options):
    options = {"max_trials": 1, "seed": 0, **options}
    return tuning.RandomSearch(hypermodel, "val_loss", **options, **project(folder))


class TestBestModels:
    def test_the_best_model_is_as_at_its_best_epoch(self, tmp_path):
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

    def test_several_best_models(self, searched):
        models = searched.get_best_models(3)
        scores = [m.evaluate(X, Y, verbose=0, return_dict=True)["loss"] for m in models]
        expected = [trial.score for trial in searched.oracle.get_best_trials(3)]
        np.testing.assert_allclose(scores, expected, rtol=1e-6)
        searched.get_best_models(2)
        again = [m.evaluate(X, Y, verbose=0, return_dict=True)["loss"] for m in models]
        assert again == scores

    def test_best_models_that_share_layers(self, tmp_path):
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

    def test_batch_norm_modes_come_back(self, batch_norm, tmp_path):
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

    def test_a_fit_without_the_callbacks_keeps_no_model(self, tmp_path, capsys):
        class Alone(keras_tuner.HyperModel):
            def build(self, hp):
                return build()

            def fit(self, hp, model, *args, **kwargs):
                return 1.0

        tuner = random_search(Alone(), tmp_path)
        tuner.search(X, Y)
        tuner.results_summary()
        assert tuner.rows()[0]["status"] == "COMPLETED"
        with pytest.raises(ValueError, match="at least one trial that is complete, and of which"):
            plots.search(tuner)
        with pytest.raises(ValueError, match="must have kept its model"):
            tuner.get_best_models()


class TestFailures:
    def test_failed_trials(self, tmp_path, capsys):
        attempts = []

        def failing(hp):
            model = build()
            depth = tuning.freeze_depth(hp, model)
            attempts.append(depth)
            if len(attempts) > 1 and depth == 1:  # the first call only asks for the space
                raise RuntimeError("broken at 1")
            return model

        tuner = random_search(Untrained(failing), tmp_path, max_trials=3)
        tuner.search(verbose=0)
        by_depth = {row["values"]["freeze_depth"]: row for row in tuner.rows()}
        assert [by_depth[n]["status"] for n in range(3)] == ["COMPLETED", "FAILED", "COMPLETED"]
        assert by_depth[1]["failures"] == ["RuntimeError: broken at 1"] * 2
        assert len(tuner.get_best_models(3)) == 2
        assert len(tuner.get_best_hyperparameters(3)) == 2
        tuner.results_summary()
        assert "broken at 1" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            MemoryError("OOM when allocating tensor"),
            RuntimeError("DefaultCPUAllocator: not enough memory"),
        ],
    )
    def test_out_of_memory_is_not_tried_again(self, error, tmp_path):
        class Large(Untrained):
            def fit(self, hp, model, *args, **kwargs):
                raise error

        tuner = random_search(Large(build), tmp_path)
        with pytest.raises(RuntimeError, match="none is complete"):
            tuner.search(X, Y)
        (row,) = tuner.rows()
        assert (row["status"], len(row["failures"]), row["score"]) == ("FAILED", 1, None)

    def test_when_every_trial_fails(self, tmp_path):
        def make():
            model = build()
            model.compiled = False
            return model

        message = r"of 3 trials in .* none is complete. Pass overwrite=True.*must call `compile"
        with pytest.raises(RuntimeError, match=message):
            tuning.DepthSweep(make, **project(tmp_path)).search(X, Y, **FIT)
        again = tuning.DepthSweep(build, **project(tmp_path))
        with pytest.raises(RuntimeError, match=message):
            again.search(X, Y, **FIT)
        with pytest.raises(ValueError, match=message):
            again.get_best_models()

    def test_models_that_are_too_large_count_with_what_is_frozen(self, tmp_path):
        tuner = random_search(build_with_depth, tmp_path, max_trials=3, max_model_size=82)
        with pytest.raises(RuntimeError, match="none is complete"):
            tuner.search(X, Y, **FIT)
        assert [row["status"] for row in tuner.rows()] == ["FAILED"] * 3
        assert all(
            "83 parameters, more than max_model_size=82" in row["failures"][0]
            for row in tuner.rows()
        )

    def test_no_number_is_tried_again_without_the_old_value(self, tmp_path):
        scores = []

        def score(hp, epoch):
            scores.append(float("nan") if len(scores) < 2 else 0.5)
            return scores[-1]

        tuner = random_search(Untrained(build, score), tmp_path)
        tuner.search(verbose=0)
        (row,) = tuner.rows()
        assert (row["status"], row["score"]) == ("COMPLETED", 0.5)
        assert row["failures"] == ["val_loss is not a number (NaN)"]
        (trial,) = tuner.oracle.get_best_trials()
        assert trial.score == 0.5

    def test_an_objective_that_is_not_logged(self, tmp_path):
        sweep = tuning.DepthSweep(build, **project(tmp_path))
        message = (
            r"must be among the metrics of fit\. Received: 'val_loss', but.*are accuracy, loss"
        )
        with pytest.raises(keras_tuner.errors.FatalValueError, match=message + ".*validation_data"):
            sweep.search(X, Y, epochs=1, verbose=0)
        (record,) = trial_record.read_all(Path(sweep.project_dir))
        assert "must be among the metrics" in record.failures[0]
        assert not record.is_running

    def test_the_same_model_each_time(self, tmp_path):
        model = build()
        sweep = tuning.DepthSweep(lambda: model, **project(tmp_path))
        with pytest.raises(ValueError, match="must return a new model each time"):
            sweep.search(X, Y, **FIT)


class TestResuming:
    """What is on disk when the process is killed at some moment between two writes."""

    @pytest.fixture
    def finished(self, searched, tmp_path):
        shutil.copytree(searched.project_dir, tmp_path / "search")
        return random_search(build_with_depth, tmp_path, max_trials=3)

    def resumed(self, tmp_path):
        tuner = random_search(build_with_depth, tmp_path, max_trials=3)
        tuner.search(X, Y, **FIT)
        return tuner

    def test_before_a_trial_has_ended(self, finished, tmp_path):
        before = finished.rows()
        trial = finished.oracle.trials["1"]
        trial.status = "RUNNING"  # its value is reported already
        finished.oracle._save_trial(trial)
        after = self.resumed(tmp_path)
        assert [row["status"] for row in after.rows()] == ["COMPLETED"] * 3
        assert after.rows()[0] == before[0] and after.rows()[2] == before[2]
        assert after.oracle.trials["1"].score == after.rows()[1]["score"]

    def test_a_trial_that_has_ended_is_not_repeated(self, finished, tmp_path):
        before = finished.rows()
        finished.oracle.ongoing_trials = {"tuner0": finished.oracle.trials["2"]}
        finished.oracle.end_order.remove("2")
        finished.oracle.save()
        after = self.resumed(tmp_path)
        assert after.rows() == before
        assert after.oracle.end_order == [*finished.oracle.end_order, "2"]

    def test_files_are_whole(self, finished, monkeypatch):
        file = Path(finished.project_dir) / "oracle.json"
        whole = file.read_text()

        def broken(path, obj):
            Path(path).write_text('{"half')
            raise OSError("killed")

        monkeypatch.setattr("keras_tuner.src.utils.save_json", broken)
        with pytest.raises(OSError, match="killed"):
            finished.oracle.save()
        assert file.read_text() == whole
        monkeypatch.setattr(finished.oracle, "save", lambda: None)
        of_tuner = file.with_name("tuner0.json")
        whole = of_tuner.read_text()
        with pytest.raises(OSError, match="killed"):
            finished.save()
        assert of_tuner.read_text() == whole

    def test_a_trial_in_which_the_process_is_killed_again_and_again(self, tmp_path):
        tuner = random_search(Untrained(build), tmp_path)
        tuner.search(verbose=0)
        folder = Path(tuner.project_dir) / "trial_0"
        record = trial_record.read(folder)
        record.is_running, record.killed = True, 2
        record.save(folder)
        trial = tuner.oracle.trials["0"]
        trial.status = "RUNNING"
        tuner.oracle._save_trial(trial)
        again = random_search(Untrained(build), tmp_path)
        with pytest.raises(RuntimeError, match=r"none is complete.*killed 3 times in this trial"):
            again.search(verbose=0)
        (row,) = tuner.rows()
        assert row["status"] == "FAILED"
        assert "killed 3 times in this trial" in row["failures"][-1]


class TestFolders:
    def test_a_worker_may_not_overwrite(self, tmp_path, monkeypatch):
        monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
        monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "8123")
        monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker_1")
        with pytest.raises(ValueError, match="must not be True on a worker"):
            tuning.DepthSweep(build, overwrite=True, **project(tmp_path))

    def test_a_folder_with_another_search(self, tmp_path):
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
            random_search(build_with_depth, tmp_path)
        tuning.DepthSweep(build, **project(tmp_path))
        random_search(build_with_depth, tmp_path, overwrite=True)


def test_no_warning_and_no_tensorboard(searched):
    assert [row["status"] for row in searched.rows()] == ["COMPLETED"] * 3
