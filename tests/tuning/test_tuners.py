"""KerasTuner's tuners with what this package adds, and as they come."""

import itertools
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest
from small_searches import FIT, Untrained, X, Y, build, build_with_depth, project

import keras_freeze as kf
from keras_freeze import tuning
from keras_freeze.tuning import trial_record


def hyperband(hypermodel, folder, **options):
    options = {"objective": "val_loss", "max_epochs": 4, "factor": 2, "seed": 0, **options}
    return tuning.Hyperband(hypermodel, **options, **project(folder))


def build_of_many(hp):
    hp.Float("unused", 0.0, 1.0)
    return build()


def continued(tuner):
    """Return pairs of records: a trial, and the one that resumes it."""
    records = {one.trial_id: one for one in trial_record.read_all(Path(tuner.project_dir))}
    later = [record for record in records.values() if "tuner/trial_id" in record.values]
    assert later
    return [(records[record.values["tuner/trial_id"]], record) for record in later]


class TestArguments:
    def test_further_ones_reach_the_oracle_and_the_tuner(self, tmp_path):
        tuner = tuning.RandomSearch(
            build_with_depth,
            "val_loss",
            3,
            seed=5,
            max_retries_per_trial=4,
            executions_per_trial=2,
            **project(tmp_path),
        )
        oracle = tuner.oracle
        assert (oracle.max_trials, oracle.seed, oracle.max_retries_per_trial) == (3, 5, 4)
        assert (tuner.executions_per_trial, tuner.project_name) == (2, "search")

    @pytest.mark.parametrize("kind", ["RandomSearch", "BayesianOptimization", "Hyperband"])
    def test_defaults_of_this_package(self, kind, tmp_path):
        oracle = getattr(tuning, kind)(build_with_depth, "val_loss", **project(tmp_path)).oracle
        assert (oracle.max_retries_per_trial, oracle.max_consecutive_failed_trials) == (1, 10)

    def test_those_of_bayesian_optimization(self, tmp_path):
        options = {"num_initial_points": 7, "alpha": 0.5, "beta": 1.5, **project(tmp_path)}
        oracle = tuning.BayesianOptimization(build_with_depth, "val_loss", **options).oracle
        assert (oracle.num_initial_points, oracle.alpha, oracle.beta) == (7, 0.5, 1.5)

    @pytest.mark.parametrize(
        ("kind", "name", "nearest"),
        [
            ("RandomSearch", "max_retries", "'max_retries_per_trial'"),
            ("BayesianOptimization", "sed", "'seed'"),
            ("Hyperband", "execution_per_trial", "'executions_per_trial'"),
            ("DepthSweep", "seed", ""),
        ],
    )
    def test_an_unknown_one(self, kind, name, nearest, tmp_path):
        message = rf"{kind}\({name}=...\) must be one of its arguments\. Received: {name}=3\..*"
        with pytest.raises(ValueError, match=f"{message}{nearest}.*Further arguments: .*cache, "):
            getattr(tuning, kind)(build_with_depth, "val_loss", **{name: 3}, **project(tmp_path))


class TestHyperband:
    @pytest.mark.landing
    def test_epochs_are_absolute_and_nothing_freezes_again(self, tmp_path, capsys):
        tuner = hyperband(build_of_many, tmp_path)
        schedule = kf.GradualUnfreeze(1, verbose=0)
        tuner.search(X, Y, callbacks=[schedule], validation_data=(X, Y), verbose=0)
        said = capsys.readouterr().out
        assert "the last phase of the schedule begins at epoch 2" in said
        assert "Rungs that end after 1, 2 epochs" in said
        for before, after in continued(tuner):
            (earlier,), (later,) = before.executions, after.executions
            assert later.initial_epoch == earlier.end == after.values["tuner/initial_epoch"]
            assert later.parts[0].trainable_params >= earlier.parts[-1].trainable_params
            assert later.parts[0].epoch == later.initial_epoch

    def test_a_trial_that_was_stopped_early_resumes_there(self, tmp_path):
        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = epoch == 0

        tuner = hyperband(Untrained(build_of_many), tmp_path)
        tuner.search(callbacks=[Stop()], verbose=0)
        pairs = continued(tuner)
        for before, after in pairs:
            assert after.executions[0].initial_epoch == before.executions[0].end
        planned = [after.values["tuner/initial_epoch"] for _, after in pairs]
        assert planned != [after.executions[0].initial_epoch for _, after in pairs]

    @pytest.mark.landing
    def test_each_execution_resumes_from_its_own_end(self, tmp_path):
        begun, ended = {}, {}

        class Model(keras_tuner.HyperModel):
            def build(self, hp):
                hp.Float("unused", 0.0, 1.0)
                model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
                model.compile("sgd", "mse", run_eagerly=True)
                return model

            def fit(self, hp, model, *args, **kwargs):
                key = hp.values["unused"], hp.values["tuner/epochs"]
                begun.setdefault(key, []).append(model.get_weights()[0].tolist())
                history = model.fit(*args, **kwargs)
                ended.setdefault(key, []).append(model.get_weights()[0].tolist())
                return history

        tuner = hyperband(Model(), tmp_path, max_epochs=2, executions_per_trial=2)
        y = np.zeros((32, 3))
        tuner.search(X, y, validation_data=(X, y), verbose=0)
        for _, after in continued(tuner):
            unused = after.values["unused"]
            assert begun[unused, 2] == ended[unused, 1]
            assert ended[unused, 1][0] != ended[unused, 1][1]

    @pytest.mark.filterwarnings("ignore:Your input ran out of data")  # which says how long it is
    def test_data_of_unknown_length(self, tmp_path):
        import tensorflow as tf

        tuner = hyperband(build_of_many, tmp_path, objective="loss", max_epochs=2)
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).filter(lambda x, y: True)
        schedule = kf.GradualUnfreeze({0: "head", 1: ["middle", "low"]}, verbose=0)
        tuner.search(data, shuffle=False, verbose=0, callbacks=[schedule])
        assert continued(tuner)
        assert not any(row["failures"] for row in tuner.rows())

    def test_a_schedule_that_depends_on_metrics(self, tmp_path):
        schedule = kf.GradualUnfreeze(kf.schedules.OnPlateau("val_loss"), verbose=0)
        with pytest.raises(ValueError, match="begins by metrics or steps"):
            hyperband(build, tmp_path).search(X, Y, callbacks=[schedule])

    def test_a_phase_beyond_all_epochs(self, tmp_path):
        schedule = kf.GradualUnfreeze(3, verbose=0)
        with pytest.raises(ValueError, match="must reach every phase of"):
            hyperband(build, tmp_path).search(X, Y, callbacks=[schedule])

    def test_a_schedule_made_in_fit(self, tmp_path):
        class Model(keras_tuner.HyperModel):
            def build(self, hp):
                return build_of_many(hp)

            def fit(self, hp, model, *args, callbacks=(), **kwargs):
                schedule = tuning.schedule(hp, choices=[3], verbose=0)
                return model.fit(*args, callbacks=[schedule, *callbacks], **kwargs)

        tuner = hyperband(Model(), tmp_path, max_consecutive_failed_trials=2)
        with pytest.raises(RuntimeError, match="must reach every phase of"):
            tuner.search(X, Y, **FIT)
        # The one that ends the search would be tried again if that were begun again.
        assert [row["status"] for row in tuner.rows()] == ["FAILED", "RUNNING"]
        for row in tuner.rows():  # once, since another attempt would not reach it either
            (failure,) = row["failures"]
            assert "must reach every phase" in failure
            assert (
                "whose last phase begins at epoch 6. Received: max_epochs=4. Pass more, or"
                in failure
            )

    def test_other_rungs_than_those_of_the_search(self, tmp_path):
        hyperband(build_with_depth, tmp_path).save()
        hyperband(build_with_depth, tmp_path)
        with pytest.raises(ValueError, match=r"max_epochs=8.*rungs that end after 1, 2, 4 epochs"):
            hyperband(build_with_depth, tmp_path, max_epochs=8)

    def test_its_summary_holds_what_was_searched(self, tmp_path, capsys):
        def make(hp):
            for n in range(8):
                hp.Choice(f"a_rather_long_name_of_number_{n}", [0.123456789, 1.0])
            return build_with_depth(hp)

        tuner = hyperband(Untrained(make), tmp_path, max_epochs=2)
        tuner.search(verbose=0)
        capsys.readouterr()
        tuner.results_summary()
        said = capsys.readouterr().out
        assert "a_rather_long_name_of_number_7" in said
        assert "tuner/" not in said and "…" not in said
        assert "seconds  epochs" in said


@pytest.mark.filterwarnings("ignore")  # KerasTuner's own, on this stack
@pytest.mark.parametrize(
    "kind", ["RandomSearch", "BayesianOptimization", "Hyperband", "GridSearch"]
)
def test_stock_tuners(kind, tmp_path):
    pytest.importorskip("tensorboard")
    size = {"max_epochs": 2} if kind == "Hyperband" else {"max_trials": 2}
    scores = itertools.count()
    hypermodel = Untrained(build_with_depth, lambda hp, epoch: float(next(scores)))
    tuner = getattr(keras_tuner, kind)(hypermodel, "val_loss", seed=0, **size, **project(tmp_path))
    tuner.search(verbose=0)
    depths = {trial.hyperparameters.get("freeze_depth") for trial in tuner.oracle.trials.values()}
    assert len(depths) > 1
