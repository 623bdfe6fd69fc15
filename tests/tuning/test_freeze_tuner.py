"""What every tuner does with a trial: what is restored, retried, refused, resumed."""

import shutil
from pathlib import Path

import keras
import pytest
from small_searches import FIT, Untrained, X, Y, build, build_with_depth, project, random_search

from keras_freeze import tuning


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

    def test_a_nan_score_is_retried_without_the_old_value(self, tmp_path):
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

    def test_the_same_model_each_time(self, tmp_path):
        model = build()
        with pytest.raises(ValueError, match="must return a new model each time"):
            tuning.DepthSweep(lambda: model, **project(tmp_path))


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
        trial.status = "RUNNING"  # its value is reported already, a better one than it will have
        trial.metrics.update("val_loss", 0.0, step=0)
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


def test_a_policy_of_dtypes_holds_in_every_trial_and_after_the_search(tmp_path):
    seen = []

    def build_and_see(hp):
        seen.append(keras.config.dtype_policy().name)
        keras.config.set_dtype_policy(hp.Choice("policy", ["float16", "float64"]))
        keras.config.disable_interactive_logging()
        return build()

    tuner = random_search(Untrained(build_and_see), tmp_path, max_trials=2)
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        keras.config.enable_interactive_logging()
        seen.clear()
        tuner.search(verbose=0)
        assert seen == ["mixed_bfloat16"] * 2
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        assert keras.config.is_interactive_logging_enabled()
        tuner.load_model(next(iter(tuner.oracle.trials.values())))
        assert seen == ["mixed_bfloat16"] * 3
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.enable_interactive_logging()


def test_no_warning_and_no_tensorboard(searched):
    assert [row["status"] for row in searched.rows()] == ["COMPLETED"] * 3


def test_a_worker_may_not_overwrite(tmp_path, monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "8123")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker_1")
    with pytest.raises(ValueError, match="must not be True on a worker"):
        tuning.DepthSweep(build, overwrite=True, **project(tmp_path))
