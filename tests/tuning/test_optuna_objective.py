"""`optuna_objective`: Optuna chooses and stores, trials are those of this package."""

import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import optuna
import pytest
from keras import layers
from keras_tuner import HyperModel

import keras_freeze as kf
from keras_freeze import plots, tuning
from keras_freeze.prefix_cache.compiled_prefix import Prefix
from keras_freeze.schedules import Auto
from keras_freeze.tuning import results
from keras_freeze.tuning.optuna_parameters import OptunaParameters

optuna.logging.set_verbosity(optuna.logging.WARNING)
SAMPLERS = optuna.samplers
# Optuna's word for a sampler that is there since 3.1.
pytestmark = pytest.mark.filterwarnings("ignore:BruteForceSampler is experimental")


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 5)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


def build(hp):
    keras.utils.set_random_seed(1)
    parts = [layers.Dense(6, activation="relu", name=name) for name in ("low", "high")]
    head = layers.Dense(2, activation="softmax", name="head")
    model = keras.Sequential([keras.Input((5,)), *parts, head])
    tuning.freeze_depth(hp, model, backbone="low|high")
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["acc"])
    return model


def objective_for(folder, function=build, **settings):
    x, y = data()
    settings = {"epochs": 3, "verbose": 0, "shuffle": False, "validation_split": 0.25, **settings}
    return tuning.optuna_objective(
        function, x, y, directory=folder, project_name="found", **settings
    )


def by_all(**settings):
    return optuna.create_study(sampler=SAMPLERS.BruteForceSampler(), **settings)


class TestTrials:
    @pytest.mark.slow
    def test_each_depth_trains_as_by_hand(self, tmp_path):
        objective, study = objective_for(tmp_path), by_all()
        study.optimize(objective)
        x, y = data()
        for trial in study.trials:
            model = build(OptunaParameters(optuna.trial.FixedTrial(trial.params)))
            settings = {"epochs": 3, "verbose": 0, "shuffle": False, "validation_split": 0.25}
            history = model.fit(x, y, **settings).history
            assert trial.value == pytest.approx(min(history["val_loss"]), rel=1e-5)
        rows = objective.rows()
        assert sorted(row["freeze_depth"] for row in rows) == [0, 1, 2]
        assert {row["status"] for row in rows} == {"COMPLETED"}
        assert [row["score"] for row in rows] == [trial.value for trial in study.trials]
        assert [row["values"] for row in rows] == [trial.params for trial in study.trials]
        assert len(objective.results_frame()) == 3
        assert plots.search(objective).axes

    def test_a_policy_of_dtypes_holds_in_every_trial_and_afterwards(self, tmp_path):
        seen = []

        def build_and_see(hp):
            seen.append(keras.config.dtype_policy().name)
            keras.config.set_dtype_policy("float32")
            return build(hp)

        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            by_all().optimize(objective_for(tmp_path, build_and_see), n_trials=2)
            assert seen == ["mixed_bfloat16"] * 3  # the first trial builds twice
            assert keras.config.dtype_policy().name == "mixed_bfloat16"
        finally:
            keras.config.set_dtype_policy("float32")

    def test_a_shared_backbone_begins_each_trial_anew_and_ends_as_it_was(self, tmp_path):
        backbone = keras.Sequential([keras.Input((5,)), layers.Dense(6, name="low")])
        backbone.get_layer("low").bias.assign(np.full(6, 0.5))
        before, begun = backbone.get_weights(), []

        def build(hp):
            begun.append(backbone.get_weights())
            model = keras.Sequential([backbone, layers.Dense(1)])
            tuning.freeze_depth(hp, model, backbone=backbone)
            model.compile("sgd", "mse")
            return model

        study = optuna.create_study()
        study.enqueue_trial({"freeze_depth": 0})
        study.enqueue_trial({"freeze_depth": 1})
        objective = objective_for(tmp_path, build)
        for count in (2, 3):  # the first trial builds twice, to see what builds share
            study.optimize(objective, n_trials=1)
            assert len(begun) == count
            np.testing.assert_array_equal(backbone.get_layer("low").bias, before[1])
        for weights in [*begun, backbone.get_weights()]:
            for one, two in zip(weights, before, strict=True):
                np.testing.assert_array_equal(one, two)

    def test_the_best_model_is_that_of_its_best_epoch(self, tmp_path):
        objective, study = objective_for(tmp_path), by_all()
        study.optimize(objective)
        model = objective.load_model(study.best_trial)
        x, y = data()
        loss = model.evaluate(x[18:], y[18:], verbose=0)[0]
        assert loss == pytest.approx(study.best_value, rel=1e-5)

    def test_trials_share_what_frozen_layers_compute(self, tmp_path, monkeypatch):
        adopted, adopt = [], Prefix.adopt
        monkeypatch.setattr(
            Prefix, "adopt", lambda self, *args: adopted.append(self) or adopt(self, *args)
        )

        def scores(name, cache):
            study = optuna.create_study(sampler=SAMPLERS.RandomSampler(0))
            study.enqueue_trial({"freeze_depth": 2})
            study.enqueue_trial({"freeze_depth": 2})
            study.optimize(objective_for(tmp_path / name, cache=cache), n_trials=2)
            return [trial.value for trial in study.trials]

        shared = scores("shared", kf.PrefixCache(auto=False, verbose=0))
        assert adopted
        adopted.clear()
        assert scores("alone", cache=False) == pytest.approx(shared, rel=1e-5)
        assert not adopted

    def test_hypermodels_and_every_kind_of_parameter(self, tmp_path):
        class Own(HyperModel):
            def build(self, hp):
                self.asked = (
                    hp.Int("units", 4, 16, step=4),
                    hp.Int("more", 1, 64, sampling="log"),
                    hp.Float("rate", 1e-3, 1e-1, sampling="log"),
                    hp.Boolean("bias"),
                    hp.Choice("kind", ["a", "b"]),
                    hp.Fixed("fixed", 7),
                )
                return build(hp)

            def fit(self, hp, model, *args, callbacks=(), **settings):
                return model.fit(
                    *args,
                    callbacks=[*callbacks, tuning.rates(hp, backbone="low|high", verbose=0)],
                    **settings,
                )

        own, study = Own(), optuna.create_study(sampler=SAMPLERS.RandomSampler(0))
        study.optimize(objective_for(tmp_path, own), n_trials=1)
        units, more, rate, bias, kind, fixed = own.asked
        assert units in (4, 8, 12, 16) and 1 <= more <= 64 and 1e-3 <= rate <= 1e-1
        assert isinstance(bias, bool) and kind in "ab" and fixed == 7
        assert set(study.best_params) == {
            *("units", "more", "rate", "bias", "kind"),
            *("freeze_depth", "rate_factor"),
        }
        assert study.best_trial.user_attrs == {"fixed": 7}

    def test_a_failure_is_recorded(self, tmp_path):
        def broken(hp):
            hp.Int("depth", 0, 3)
            raise RuntimeError("no weights")

        objective, study = objective_for(tmp_path, broken), optuna.create_study()
        study.optimize(objective, n_trials=1, catch=(RuntimeError,))
        (row,) = objective.rows()
        assert (row["status"], row["failures"]) == ("FAILED", ["RuntimeError: no weights"])
        assert study.trials[0].state.name == "FAIL"

    def test_a_metric_that_is_no_number_is_a_failure(self, tmp_path):
        def broken(hp):
            model = build(hp)
            model.get_layer("head").kernel.assign(np.full((6, 2), np.nan))
            return model

        objective, study = objective_for(tmp_path, broken), optuna.create_study()
        study.optimize(objective, n_trials=1)
        (row,) = objective.rows()
        assert (row["status"], row["score"]) == ("FAILED", None)
        assert "not a number" in row["failures"][0]
        assert study.trials[0].state.name == "FAIL"

    def test_a_model_that_is_returned_twice_is_refused(self, tmp_path):
        model = build(OptunaParameters(optuna.trial.FixedTrial({"freeze_depth": 1})))
        study = optuna.create_study()
        with pytest.raises(ValueError, match="return a new model each time"):
            study.optimize(objective_for(tmp_path, lambda hp: model), n_trials=2)

    def test_an_interrupt_is_no_failure_of_the_trial(self, tmp_path):
        def stopped(hp):
            raise KeyboardInterrupt

        objective = objective_for(tmp_path, stopped)
        with pytest.raises(KeyboardInterrupt):
            optuna.create_study().optimize(objective, n_trials=1)
        assert objective.rows()[0]["failures"] == []

    def test_results_can_be_asked_for_the_next_day(self, tmp_path, capsys):
        study = optuna.create_study()
        study.optimize(objective_for(tmp_path), n_trials=1)
        later = objective_for(tmp_path)
        assert len(later.rows()) == 1
        later.results_summary()
        assert "the best 1 of 1 trials" in capsys.readouterr().out
        assert later.load_model(study.best_trial).built
        unnamed = tuning.optuna_objective(build, *data())
        with pytest.raises(ValueError, match="project_name="):
            unnamed.rows()


class Never(optuna.pruners.BasePruner):
    """Notes when it is asked."""

    def __init__(self, answer=False):
        self.asked, self.answer = [], answer

    def prune(self, study, trial):
        self.asked.append(trial.last_step)
        return self.answer


class TestPruning:
    def study(self, pruner):
        return optuna.create_study(pruner=pruner, sampler=SAMPLERS.RandomSampler(0))

    @pytest.mark.parametrize(
        ("callbacks", "asked"),
        [
            ([], [0, 1, 2]),
            ([kf.FreezeScheduler({0: 1}, backbone="low|high", verbose=0)], [0, 1, 2]),
            ([kf.FreezeScheduler({0: 2, 2: 1}, backbone="low|high", verbose=0)], [1]),
        ],
        ids=["no schedule", "one phase", "two phases"],
    )
    def test_it_is_asked_where_a_phase_has_ended(self, callbacks, asked, tmp_path):
        pruner = Never()
        study = self.study(pruner)
        study.optimize(objective_for(tmp_path, callbacks=callbacks, epochs=4), n_trials=1)
        assert pruner.asked == asked
        assert [*study.trials[0].intermediate_values] == [0, 1, 2, 3]

    def test_a_schedule_that_the_hypermodel_adds_counts_too(self, tmp_path):
        class Own(HyperModel):
            def build(self, hp):
                return build(hp)

            def fit(self, hp, model, *args, callbacks=(), **settings):
                own = kf.FreezeScheduler({0: 2, 2: 1}, backbone="low|high", verbose=0)
                return model.fit(*args, callbacks=[*callbacks, own], **settings)

        pruner = Never()
        self.study(pruner).optimize(objective_for(tmp_path, Own(), epochs=4), n_trials=1)
        assert pruner.asked == [1]

    def test_a_race_is_not_pruned(self, tmp_path):
        pruner = Never(answer=True)
        callback = kf.GradualUnfreeze(Auto(), backbone="low|high", verbose=0)
        study = self.study(pruner)
        study.optimize(objective_for(tmp_path, callbacks=[callback], epochs=9), n_trials=1)
        assert pruner.asked == []

    def test_a_pruned_trial_is_no_failure(self, tmp_path, capsys):
        objective, study = objective_for(tmp_path), self.study(Never(answer=True))
        study.optimize(objective, n_trials=2)
        assert [trial.state.name for trial in study.trials] == ["PRUNED", "PRUNED"]
        rows = objective.rows()
        assert [row["status"] for row in rows] == ["PRUNED", "PRUNED"]
        assert [row["epochs"] for row in rows] == [1, 1]
        assert [row["failures"] for row in rows] == [[], []]
        objective.results_summary()
        assert "the best 0 of 2 trials (2 pruned)" in capsys.readouterr().out

    def test_without_pruning_nothing_is_asked(self, tmp_path):
        pruner = Never(answer=True)
        study = self.study(pruner)
        study.optimize(objective_for(tmp_path, prune=False), n_trials=1)
        assert pruner.asked == []
        assert study.trials[0].state.name == "COMPLETE"


def test_the_direction_of_the_study_must_be_that_of_the_metric(tmp_path):
    with pytest.raises(ValueError, match=r'create_study\(direction="maximize"\)'):
        optuna.create_study().optimize(objective_for(tmp_path, objective="val_acc"), n_trials=1)
    study = optuna.create_study(directions=["minimize", "maximize"])
    with pytest.raises(ValueError, match="must serve a study with one objective"):
        study.optimize(objective_for(tmp_path), n_trials=1)


def test_another_search_is_not_mixed_in(tmp_path):
    objective = objective_for(tmp_path)
    optuna.create_study(study_name="one").optimize(objective, n_trials=1)
    for settings, held in (
        ({"study_name": "one"}, "holds one with objective val_loss instead of loss"),
        ({"study_name": "two"}, "holds one with (objective|study)"),
    ):
        study = optuna.create_study(**settings)
        with pytest.raises(ValueError, match=held):
            study.optimize(objective_for(tmp_path, objective="loss"), n_trials=1)
    with pytest.raises(ValueError, match="must serve one study"):
        optuna.create_study(study_name="two").optimize(objective, n_trials=1)


def test_a_fixed_value_is_that_of_the_depth(tmp_path):
    def fixed(hp):
        hp.Fixed("freeze_depth", 1)
        return build(hp)

    objective = objective_for(tmp_path, fixed)
    optuna.create_study().optimize(objective, n_trials=1)
    assert objective.rows()[0]["freeze_depth"] == 1


def test_what_optuna_can_not_sample_is_refused():
    hp = OptunaParameters(optuna.trial.FixedTrial({"a": 2}))
    for arguments in ({"sampling": "reverse_log"}, {"sampling": "log", "step": 2}):
        with pytest.raises(ValueError, match=r"hp\(sampling=\.\.\.\) must be"):
            hp.Int("a", 1, 8, **arguments)


def test_automatic_names_are_the_same_in_each_trial(tmp_path):
    names = []

    def unnamed(hp):
        model = keras.Sequential([keras.Input((5,)), layers.Dense(4), layers.Dense(2, "softmax")])
        names.append([layer.name for layer in model.layers])
        hp.Boolean("any")
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    optuna.create_study().optimize(objective_for(tmp_path, unnamed), n_trials=2)
    assert len({tuple(own) for own in names}) == 1


def test_a_trial_that_kept_no_model_has_none_to_load(tmp_path):
    before = optuna.create_study(study_name="one")
    before.optimize(objective_for(tmp_path), n_trials=1)
    study = optuna.create_study(study_name="one", pruner=Never(answer=True))  # begun anew
    objective = objective_for(tmp_path)
    study.optimize(objective, n_trials=1)
    with pytest.raises(ValueError, match=r"trial 0 \(PRUNED\)"):
        objective.load_model(study.trials[0])
    with pytest.raises(ValueError, match="enqueue_trial"):
        objective(optuna.trial.FixedTrial({"freeze_depth": 1}))


def test_what_is_no_build_function_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"optuna_objective\(build=\.\.\.\) must be a function"):
        objective_for(tmp_path, keras.Sequential([keras.Input((2,)), layers.Dense(1)]))
    study = optuna.create_study()
    with pytest.raises(ValueError, match=r"optuna_objective\(build=\.\.\.\) must return a keras"):
        study.optimize(objective_for(tmp_path, lambda hp: None), n_trials=1)


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import conftest, keras, optuna
from optuna import storages
from tuning.test_optuna_objective import build, objective_for

class Dies(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        os.kill(os.getpid(), signal.SIGKILL)

name = "RetryHeartbeatStaleTrialCallback"
retry = getattr(storages, name, getattr(storages, "RetryFailedTrialCallback", None))
storage = storages.RDBStorage(
    {url!r}, heartbeat_interval=1, grace_period=2, failed_trial_callback=retry()
)
study = optuna.create_study(
    study_name="shared", storage=storage, load_if_exists=True,
    sampler=optuna.samplers.BruteForceSampler(),
)
study.optimize(objective_for({folder!r}, callbacks=[Dies()] if {dies} else []))
"""


@pytest.mark.slow
def test_what_a_killed_worker_left_is_tried_again_by_another(tmp_path):
    url, tests = f"sqlite:///{tmp_path / 'study.db'}", str(pathlib.Path(__file__).parents[1])

    def work(dies):
        script = SCRIPT.format(tests=tests, url=url, folder=str(tmp_path), dies=dies)
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert work(dies=True).returncode == -signal.SIGKILL
    (row,) = results.rows(tmp_path / "found")
    (killed,) = optuna.load_study(study_name="shared", storage=url).trials
    assert killed.params
    assert (row["status"], row["values"]) == ("RUNNING", killed.params)
    time.sleep(3)
    done = work(dies=False)
    assert done.returncode == 0, done.stderr
    trials = optuna.load_study(study_name="shared", storage=url).trials
    assert trials[0].state.name == "FAIL"
    depths = [t.params["freeze_depth"] for t in trials if t.state.name == "COMPLETE"]
    assert sorted(depths) == [0, 1, 2]
    assert trials[0].params["freeze_depth"] in depths
