"""Trials in processes of their own: as here, whatever becomes of the process."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import psutil
import pytest
import small_searches
from small_searches import FIT, X, Y, build_with_depth, project, random_search

import keras_freeze as kf
from keras_freeze import tuning
from keras_freeze.tuning import trial_processes, trial_record

slow = pytest.mark.slow  # each process imports TensorFlow
ISOLATED = {"isolate": True, "max_retries_per_trial": 0}


def scores(tuner):
    return [(row["freeze_depth"], row["status"], row["score"]) for row in tuner.rows()]


def running_trial_processes():
    """Return the processes that run trials for this one."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            found += [child] if trial_processes.PROGRAM in child.cmdline() else []
    return found


@slow
@pytest.mark.parametrize("kind", ["DepthSweep", "RandomSearch", "Hyperband"])
def test_it_finds_what_a_search_in_one_process_finds(kind, tmp_path):
    def tuner(folder, **options):
        if kind == "DepthSweep":
            return tuning.DepthSweep(small_searches.build, **options, **project(folder))
        own = {"max_trials": 2} if kind == "RandomSearch" else {"max_epochs": 4, "factor": 2}
        return getattr(tuning, kind)(
            build_with_depth, "val_loss", seed=0, **own, **options, **project(folder)
        )

    fit = {**FIT, "shuffle": False}
    here, elsewhere = tuner(tmp_path / "here"), tuner(tmp_path / "elsewhere", isolate=True)
    for one in (here, elsewhere):
        one.search(X, Y, **fit)
    left, right = here.rows(), elsewhere.rows()
    assert [row["status"] for row in right] == ["COMPLETED"] * len(left)
    for name in ("freeze_depth", "trainable_params", "best_epoch"):
        assert [row[name] for row in right] == [row[name] for row in left]
    np.testing.assert_allclose([r["score"] for r in right], [r["score"] for r in left], rtol=1e-5)
    (a,), (b,) = here.get_best_models(), elsewhere.get_best_models()
    for mine, other in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)
    steps = [one.oracle.get_best_trials()[0].best_step for one in (here, elsewhere)]
    assert steps[0] == steps[1]


@slow
def test_trials_begin_with_the_same_weights_and_share_features(tmp_path):
    kept, reached = tmp_path / "features", tmp_path / "first.npy"
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(5, name="middle")(keras.layers.Dense(6, name="low")(inputs))
    backbone = keras.Model(inputs, outputs, name="backbone")
    start = backbone.get_layer("middle").get_weights()[0]

    def build(hp):
        hp.Choice("number", [1, 2, 3])
        model = keras.Sequential([keras.Input((4,)), backbone, keras.layers.Dense(3)])
        kf.freeze(model, matching="low")
        model.compile("sgd", "mse", run_eagerly=True)
        now = backbone.get_layer("middle").get_weights()[0]
        if reached.exists():
            np.testing.assert_array_equal(now, np.load(reached))
        np.save(reached, now)
        return model

    cache = kf.PrefixCache(directory=kept, keep=True, auto=False, verbose=0)
    tuner = random_search(
        build, tmp_path, max_trials=2, executions_per_trial=2, cache=cache, **ISOLATED
    )
    tuner.search(X, X[:, :3], **{**FIT, "validation_data": (X, X[:, :3])})
    assert [row["status"] for row in tuner.rows()] == ["COMPLETED"] * 2
    folders = Path(tuner.project_dir).glob("trial_*")
    assert [len(trial_record.read(folder).executions) for folder in folders] == [2, 2]
    assert kf.PrefixCache.contents(kept).shelves
    np.testing.assert_array_equal(np.load(reached), start)
    np.testing.assert_array_equal(backbone.get_layer("middle").get_weights()[0], start)


def dies(how):
    """Return a build function that dies in the first of two trials, and not in this process."""
    home = os.getpid()

    def build(hp):
        number = hp.Int("number", 0, 1)
        model = small_searches.build()
        if number == 0 and os.getpid() != home:
            how()
        return model

    return build


def run_out():
    raise MemoryError("no space for a tensor")


def fail():
    raise ValueError("a fault of the trial")


@slow
@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            "ended by SIGKILL, as systems do where memory runs out",
        ),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "ended by SIGSEGV"),
        (lambda: os._exit(3), "ended with status 3"),
        (lambda: sys.exit(3), "SystemExit: 3"),
        (run_out, "no space for a tensor"),
        (fail, "ValueError: a fault of the trial"),
    ],
    ids=["killed", "crashed", "ended", "exits", "out of memory", "raises"],
)
def test_a_trial_that_dies_is_over_and_the_search_goes_on(how, message, tmp_path):
    tuner = random_search(dies(how), tmp_path, max_trials=2, **ISOLATED)
    tuner.search(X, Y, **FIT)
    failed, complete = sorted(tuner.rows(), key=lambda row: row["values"]["number"])
    assert failed["status"] == "FAILED" and message in failed["failures"][-1]
    assert complete["status"] == "COMPLETED"
    assert not running_trial_processes()


@slow
def test_what_a_trial_had_recorded_when_it_was_killed_is_kept(tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    tuner = random_search(lambda hp: small_searches.build(), tmp_path, **ISOLATED)
    with pytest.raises(RuntimeError, match="none is complete"):
        tuner.search(X, Y, **FIT, callbacks=[Kill()])
    (folder,) = Path(tuner.project_dir).glob("trial_*")
    record = trial_record.read(folder)
    assert [len(execution.history["val_loss"]) for execution in record.executions] == [1]
    assert "SIGKILL" in record.failures[0] and not record.is_running


@slow
def test_output_hyperparameters_and_settings_pass(tmp_path, capsys):
    class Model(keras_tuner.HyperModel):
        def build(self, hp):
            return small_searches.build()

        def fit(self, hp, model, *args, **kwargs):
            policy = keras.config.dtype_policy().name
            print("epsilon", keras.config.epsilon(), "policy", policy, "é")
            epochs = hp.Choice("late", [1])
            return model.fit(*args, **{**kwargs, "epochs": epochs})

    before = keras.config.epsilon()
    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.config.set_epsilon(1e-6)
    try:
        tuner = random_search(Model(), tmp_path, **ISOLATED)
        tuner.search(X, Y, **FIT)
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_epsilon(before)
    assert "epsilon 1e-06 policy mixed_bfloat16 é" in capsys.readouterr().out
    assert tuner.rows()[0]["values"]["late"] == 1
    assert tuner.oracle.get_space().get("late") == 1


@slow
def test_a_seed_of_the_search_decides_what_is_random_in_its_trials(tmp_path):
    class Model(keras_tuner.HyperModel):
        def build(self, hp):
            hp.Choice("number", [1, 2])
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
            model.compile("sgd", "mse")
            return model

        def fit(self, hp, model, *args, **kwargs):
            return float(np.random.uniform())

    def found(name):
        keras.utils.set_random_seed(3)
        tuner = random_search(Model(), tmp_path / name, max_trials=2, seed=1, **ISOLATED)
        tuner.search(X, Y, **FIT)
        return [row["score"] for row in tuner.rows()]

    first = found("first")
    assert found("again") == first
    assert first[0] != first[1]


@slow
def test_a_run_trial_of_the_users_own_runs_there(tmp_path):
    class Own(tuning.RandomSearch):
        def run_trial(self, trial, x, y, **kwargs):
            self.hypermodel.build(trial.hyperparameters)
            return {"val_loss": 0.25, "process": os.getpid()}

    tuner = Own(build_with_depth, "val_loss", max_trials=1, seed=0, **ISOLATED, **project(tmp_path))
    tuner.search(X, Y)
    (row,) = tuner.rows()
    assert row["score"] == 0.25 and row["trainable_params"]
    (trial,) = tuner.oracle.trials.values()
    assert trial.metrics.get_best_value("process") != os.getpid()


@slow
def test_a_fatal_error_ends_the_search(tmp_path):
    tuner = random_search(lambda hp: small_searches.build(), tmp_path, **ISOLATED)
    with pytest.raises(keras_tuner.errors.FatalValueError, match="must be among the metrics"):
        tuner.search(X, Y, epochs=1, verbose=0)


@slow
def test_an_interrupt_ends_the_process_and_the_search_resumes(tmp_path):
    def build(hp):
        hp.Choice("number", [1, 2])
        while (tmp_path / "waits").exists():
            time.sleep(0.05)
        return small_searches.build()

    tuner = random_search(build, tmp_path, max_trials=2, isolate=True)
    (tmp_path / "waits").touch()

    def interrupt():
        while not running_trial_processes():
            time.sleep(0.05)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background too
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            tuner.search(X, Y, **FIT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not running_trial_processes()
    (tmp_path / "waits").unlink()
    again = random_search(build, tmp_path, max_trials=2, isolate=True)
    again.search(X, Y, **FIT)
    assert [row["status"] for row in again.rows()] == ["COMPLETED"] * 2


SCRIPT = """
import os, sys, time
import keras, numpy as np
from keras_freeze import tuning

x, y = np.ones((8, 4)), np.ones((8, 1))

class Linear(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
    def call(self, inputs):
        return self.dense(inputs)

def build(hp):
    model = Linear()
    model.compile("sgd", "mse")
    if "WAITS" in os.environ and "trial_program" in sys.argv[0]:
        open("process.txt", "w").close()
        time.sleep(600)
    return model

tuner = tuning.RandomSearch(build, "val_loss", max_trials=1, isolate=True, directory="out")
tuner.search(x, y, validation_data=(x, y), epochs=1, verbose=0)
print("score", tuner.rows()[0]["score"])
"""


@slow
def test_a_script_needs_no_guard_and_its_own_classes_come_along(tmp_path):
    (tmp_path / "search.py").write_text(SCRIPT)
    out = subprocess.run(
        [sys.executable, "search.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert out.count("score") == 1


@slow
def test_a_search_that_is_killed_takes_its_process_along(tmp_path):
    (tmp_path / "search.py").write_text(SCRIPT)
    (tmp_path / "temporary").mkdir()
    waits = {**os.environ, "WAITS": "1", "TMPDIR": str(tmp_path / "temporary")}
    search = subprocess.Popen([sys.executable, "search.py"], cwd=tmp_path, env=waits)
    end = time.monotonic() + 120
    while not (tmp_path / "process.txt").exists():
        assert time.monotonic() < end and search.poll() is None
        time.sleep(0.1)
    (child,) = [c for c in psutil.Process(search.pid).children() if "python" in c.name()]
    search.kill()
    search.wait()
    assert not psutil.wait_procs([child], timeout=30)[1]
    assert not list((tmp_path / "temporary").iterdir())


@slow
def test_what_a_model_holds_beside_its_weights_comes_along(tmp_path):
    """Flags of single weights, seeds, a class of its own: as in a search in one process."""

    class Doubled(keras.layers.Layer):
        def call(self, inputs):
            return 2.0 * inputs

    @keras.saving.register_keras_serializable("tests")
    class Tripled(keras.layers.Layer):
        def call(self, inputs):
            return 3.0 * inputs

    dense = keras.layers.Dense(6, name="low")
    layers = [keras.Input((4,)), dense, keras.layers.Dropout(0.5, seed=1), Doubled(), Tripled()]
    backbone = keras.Sequential(layers, name="backbone")
    dense.kernel.trainable = False
    for _ in range(3):
        backbone(X, training=True)  # moves the seed on

    def build(hp):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), backbone, keras.layers.Dense(3)])
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    fit = {**FIT, "validation_data": (X, X[:, :3]), "shuffle": False}
    rows = []
    for isolate in (False, True):
        tuner = random_search(build, tmp_path / str(isolate), isolate=isolate)
        tuner.search(X, X[:, :3], **fit)
        rows += tuner.rows()
    assert rows[1]["trainable_params"] == rows[0]["trainable_params"] == 6 + 21
    assert rows[1]["score"] == pytest.approx(rows[0]["score"], rel=1e-5)


@slow
def test_each_build_of_a_run_trial_begins_anew(tmp_path):
    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="low")])
    backbone.trainable = False

    def build(hp):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), backbone, keras.layers.Dense(3)])
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    class Folds(tuning.RandomSearch):
        rate = 0.0

        def on_trial_begin(self, trial):
            self.rate = 1.0
            super().on_trial_begin(trial)

        def run_trial(self, trial, x, y, **kwargs):
            counts = []
            for _ in range(2):
                model = self.hypermodel.build(trial.hyperparameters)
                counts.append(len(model.trainable_variables))
                model.trainable = True
            metrics = {"val_loss": float(counts == [2, 2]), "rate": self.rate}
            self.oracle.update_trial(trial.trial_id, metrics)

    tuner = Folds(build, "val_loss", max_trials=1, **ISOLATED, **project(tmp_path))
    tuner.search(X, X[:, :3])
    (trial,) = tuner.oracle.trials.values()
    assert trial.score == 1.0 and trial.metrics.get_best_value("rate") == 1.0


@slow
def test_a_trial_may_start_processes_and_none_is_left(tmp_path):
    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            rows = slice(16 * index, 16 * index + 16)
            return X[rows], Y[rows]

    mark = tmp_path / "process.txt"

    def build(hp):
        if os.getpid() != home:
            assert not sys.stdin.read()
            left = [["sh", "-c", "while true; do echo tick; sleep 0.05; done"], ["sleep", "600"]]
            # One ends as soon as nobody reads what it prints, the other doesn't.
            for command, out in zip(left, (None, subprocess.DEVNULL), strict=True):
                with mark.open("a") as file:
                    file.write(f"{subprocess.Popen(command, stdout=out, stderr=out).pid}\n")
        return small_searches.build()

    home = os.getpid()
    tuner = random_search(build, tmp_path, **ISOLATED)
    data = Data(workers=1, use_multiprocessing=True)
    tuner.search(data, validation_data=(X, Y), epochs=1, verbose=0)
    assert [row["status"] for row in tuner.rows()] == ["COMPLETED"]
    pids = [int(line) for line in mark.read_text().splitlines()]
    alive = [pid for pid in pids if psutil.pid_exists(pid)]
    assert len(pids) > 1 and all(
        psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in alive
    )


@pytest.mark.parametrize("name", ["two", "one"])
def test_models_that_share_layers_are_refused(name, tmp_path):
    inputs = keras.Input((4,))
    low = keras.layers.Dense(3, name="low")(inputs)
    one, two = keras.Model(inputs, low, name="one"), keras.Model(inputs, -low, name=name)

    def build(hp):
        assert one
        return keras.Sequential([two, keras.layers.Dense(3)])

    tuner = random_search(small_searches.Untrained(build), tmp_path, isolate=True)
    with pytest.raises(ValueError, match=f"'one' and '{name}', which share weights"):
        tuner.search(X, Y, **FIT)


def test_what_another_process_can_not_be_given_is_refused(tmp_path):
    lock = threading.Lock()

    def build(hp):
        assert lock
        return small_searches.build()

    with pytest.raises(ValueError, match=r"RandomSearch\(hypermodel=.*can't be pickled"):
        random_search(build, tmp_path / "one", isolate=True).search(X, Y, **FIT)
    tuner = random_search(lambda hp: small_searches.build(), tmp_path / "two", isolate=True)
    with pytest.raises(ValueError, match=r"search\(x=.*HyperModel.fit"):
        tuner.search(lock, Y, **FIT)
    with pytest.raises(ValueError, match=r"search\(validation_data=.*"):
        tuner.search(X, Y, validation_data=(X, lock))


def test_private_attributes_are_not_named(tmp_path):
    cache = kf.PrefixCache(verbose=0)
    cache.lock = threading.Lock()
    tuner = random_search(lambda hp: small_searches.build(), tmp_path, isolate=True, cache=cache)
    with pytest.raises(ValueError, match=r"RandomSearch\(isolate=.*can't be pickled"):
        tuner.search(X, Y, **FIT)


def test_a_distribution_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.distribution, "distribution", object)
    tuner = random_search(lambda hp: small_searches.build(), tmp_path, isolate=True)
    with pytest.raises(ValueError, match=r"isolate=.*Set the distribution in the build function"):
        tuner.search(X, Y, **FIT)


def test_features_that_trials_share_are_where_the_cache_has_its_folder(tmp_path, monkeypatch):
    seen = []

    def run(self, trial, record):
        needs = self._needs()
        seen.append((self._folder, needs.state["_cache"].directory, needs.state["_cache"].keep))
        raise keras_tuner.errors.FatalValueError("enough is known")

    monkeypatch.setattr(trial_processes.TrialProcesses, "run", run)
    for name, keep in (("unkept", False), ("kept", True)):
        own = kf.PrefixCache(2**20, tmp_path / name, keep=keep, verbose=0)
        (tmp_path / name).mkdir()
        tuner = random_search(
            lambda hp: small_searches.build(), tmp_path / f"of-{name}", isolate=True, cache=own
        )
        with pytest.raises(keras_tuner.errors.FatalValueError):
            tuner.search(X, Y, **FIT)
    (own, features, _), (other, kept, _) = seen
    assert own.parent == tmp_path / "unkept" and features.parent == own and not own.exists()
    assert other.parent != tmp_path / "kept" and kept == tmp_path / "kept"
    assert [keep for *_, keep in seen] == [True, True]


def test_a_trial_gets_the_first_weights_of_layers_that_builds_share(tmp_path, monkeypatch):
    low = keras.layers.Dense(3, name="low")
    low.build((None, 4))
    first, seen = low.get_weights(), []

    def run(self, trial, record):
        self._needs()
        seen.extend(low.get_weights())
        raise keras_tuner.errors.FatalValueError("enough is known")

    def build(hp):
        model = keras.Sequential([keras.Input((4,)), low, keras.layers.Dense(1, name="head")])
        model.compile("sgd", "mse")
        return model

    monkeypatch.setattr(trial_processes.TrialProcesses, "run", run)
    tuner = random_search(build, tmp_path, isolate=True)
    tuner.hypermodel.build(keras_tuner.HyperParameters())
    monkeypatch.setattr(
        trial_processes.TrialProcesses,
        "_write",
        lambda self, **_: low.set_weights([2.0 + weight for weight in first]),
    )
    with pytest.raises(keras_tuner.errors.FatalValueError):
        tuner.search(X, Y, **FIT)
    for now, before in zip(seen, first, strict=True):
        np.testing.assert_array_equal(now, before)


def test_without_cloudpickle_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    tuner = random_search(lambda hp: small_searches.build(), tmp_path, isolate=True)
    with pytest.raises(ImportError, match=r"pip install .keras_freeze\[isolate\]"):
        tuner.search(X, Y, **FIT)
