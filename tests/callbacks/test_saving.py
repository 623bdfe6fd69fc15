"""What is saved is plain Keras: it opens where keras_freeze is not installed, and trains on."""

import json
import os
import subprocess
import sys
import textwrap

import conftest
import keras
import numpy as np
import pytest
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze.engine import optimizer_state
from keras_freeze.schedules import Phase

pytestmark = pytest.mark.backend

WITHOUT_US = """
    import json, sys
    sys.modules["keras_freeze"] = None  # importing it would fail
    import numpy as np
    import keras
    model = keras.models.load_model(sys.argv[1])
    numbers = lambda vs: [float(np.sum(keras.ops.convert_to_numpy(v.value))) for v in vs]
    state = {
        "trained": [v.path for v in model.trainable_variables],
        "weights": numbers(model.weights),
        "optimizer": numbers(model.optimizer.variables),
    }
    shape = (8, *model.input_shape[1:])
    before = model.get_weights()
    model.fit(np.ones(shape), np.zeros(8, "int32"), verbose=0)
    state["moved"] = [bool((a != b).any()) for a, b in zip(before, model.get_weights())]
    print(json.dumps(state))
"""


def open_without_us(path):
    command = [sys.executable, "-W", "error::UserWarning", "-c", textwrap.dedent(WITHOUT_US)]
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    done = subprocess.run(
        [*command, str(path)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def numbers(variables):
    return [float(np.sum(optimizer_state.to_host(v))) for v in variables]


@pytest.mark.landing
@pytest.mark.slow_on_jax
@pytest.mark.parametrize("build", [pytest.param("batch_norm", marks=pytest.mark.slow), "nested"])
def test_a_model_saved_in_the_middle_opens_and_trains_on(build, request, data_for, tmp_path):
    model = request.getfixturevalue(build)()
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = data_for(model)
    path = tmp_path / "middle.keras"
    states = {}

    class SaveInTheMiddle(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                model = self.model
                model.save(path)
                states["trained"] = [v.path.split("/")[-2:] for v in model.trainable_variables]
                states["weights"] = numbers(model.weights)
                states["optimizer"] = numbers(model.optimizer.variables)

    schedule = kf.GradualUnfreeze({0: "head", 1: "block2", 2: "block1"}, verbose=0)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[schedule, SaveInTheMiddle()])
    loaded = open_without_us(path)
    assert [p.split("/")[-2:] for p in loaded["trained"]] == states["trained"]
    assert loaded["weights"] == states["weights"]
    assert loaded["optimizer"] == states["optimizer"]
    moved = dict(zip((v.path for v in model.weights), loaded["moved"], strict=True))
    assert {path for path, did in moved.items() if did} == {
        v.path for v in model.weights if "block2_conv" in v.path or "head" in v.path
    }


def test_a_model_saved_at_the_end_goes_on_here_with_its_state(plain, data_for, tmp_path):
    model = plain()
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = data_for(model)
    schedule = kf.GradualUnfreeze({0: "head", 1: "middle"}, verbose=0)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[schedule])
    model.save(tmp_path / "end.keras")
    loaded = keras.models.load_model(tmp_path / "end.keras")
    assert type(loaded.optimizer) is type(model.optimizer)
    assert numbers(loaded.optimizer.variables) == numbers(model.optimizer.variables)
    assert (
        kf.parameter_report(loaded).to_dict()["rows"]
        == (kf.parameter_report(model).to_dict()["rows"])
    )
    kf.unfreeze(loaded, layers=["low"])
    loaded.fit(x, y, verbose=0)


PARTS = {
    "kernels frozen": (conftest.build_plain, lambda: {0: Phase(2, weights="kernel")}),
    "statistics fixed": (conftest.build_batch_norm, lambda: {0: Phase(1, batch_norm="statistics")}),
}


@pytest.mark.parametrize("part", PARTS)
def test_what_a_file_cannot_keep_is_said_once_and_one_call_puts_it_right(part, data_for, tmp_path):
    build, plan = PARTS[part]

    def schedule():
        return kf.FreezeScheduler(plan(), verbose=0)

    model = as_if_trained(build())
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = data_for(model)
    with pytest.warns(UserWarning, match=r"prepare\(model, phase=0\).*load_weights") as caught:
        model.fit(x, y, epochs=2, verbose=0, callbacks=[schedule()])
    assert [warning.category for warning in caught].count(UserWarning) == 1
    model.save(tmp_path / "end.keras")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        loaded = keras.models.load_model(tmp_path / "end.keras")
    schedule().prepare(loaded, phase=0)
    loaded.load_weights(tmp_path / "end.keras")
    assert numbers(loaded.optimizer.variables) == numbers(model.optimizer.variables)
    assert numbers(loaded.weights) == numbers(model.weights)
    for one in (model, loaded):  # which go on alike
        one.fit(x, y, epochs=1, shuffle=False, verbose=0)
    assert numbers(loaded.weights) == numbers(model.weights)


@pytest.mark.slow_on_jax
def test_whole_layers_are_kept_without_a_word(batch_norm, data_for):
    model = batch_norm()
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    x, y = data_for(model)
    for mode in ("frozen", "follow", "train"):
        schedule = kf.FreezeScheduler({0: 2, 1: 1}, batch_norm=mode, verbose=0)
        model.fit(x, y, epochs=2, verbose=0, callbacks=[schedule])  # warnings are errors


@pytest.mark.slow_on_jax
def test_the_optimizers_config_knows_nothing_of_group_rates(plain, data_for):
    model = plain()
    adamw = keras.optimizers.AdamW(0.01)
    model.compile(adamw, "sparse_categorical_crossentropy", run_eagerly=True)
    x, y = data_for(model)
    config = model.optimizer.get_config()
    configs = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: configs.append(model.optimizer.get_config())
    )
    model.fit(x, y, epochs=3, verbose=0, callbacks=[kf.GradualUnfreeze(verbose=0), note])
    assert configs == [config] * 3


CHECKPOINTS = {  # the file, and the epochs that it has seen
    "the first": ("1.keras", 1),
    "the k-th": ("3.keras", 3),
    "the last": ("5.keras", 5),
    "the best": ("best.keras", 4),
}


@pytest.mark.parametrize("which", CHECKPOINTS)
@pytest.mark.at_commit("the best")
def test_going_on_from_a_checkpoint_equals_one_fit(which, plain, data_for, tmp_path):
    """ModelCheckpoint's files and initial_epoch, each group having its own step count."""
    name, seen = CHECKPOINTS[which]
    losses = {0: 5.0, 1: 4.0, 2: 3.0, 3: 1.0, 4: 2.0, 5: 2.0}  # the fourth epoch is the best

    def value(epoch, logs):
        logs["value"] = losses[epoch]

    def fit(model, **settings):
        x, y = data_for(model)
        schedule = kf.GradualUnfreeze({0: "head", 2: "middle", 3: "low"}, verbose=0)
        save, stock = {"save_freq": "epoch"}, keras.callbacks.ModelCheckpoint
        best = {"monitor": "value", "mode": "min", "save_best_only": True}
        callbacks = [
            keras.callbacks.LambdaCallback(on_epoch_end=value),
            schedule,
            stock(str(tmp_path / "{epoch}.keras"), **save),
            stock(str(tmp_path / "best.keras"), **save, **best),
        ]
        arguments = {"batch_size": 4, "shuffle": False, "verbose": 0, "epochs": 6}
        model.fit(x, y, callbacks=callbacks, **arguments, **settings)
        return model

    whole = plain()
    whole.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    fit(whole)
    resumed = fit(keras.models.load_model(tmp_path / name), initial_epoch=seen)
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert numbers(resumed.optimizer.variables) == pytest.approx(
        numbers(whole.optimizer.variables), rel=1e-4
    )


class TestOldFiles:
    """A `.h5` file has the weights of a layer in another order while a part of it is frozen."""

    def fit(self, build, data_for, path, schedule):
        model = build()
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
        checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only="weights" in str(path))
        callbacks = [checkpoint, kf.FreezeScheduler(schedule, verbose=0)]
        model.fit(*data_for(model), epochs=2, verbose=0, callbacks=callbacks)
        return model

    @pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
    def test_a_checkpoint_to_one_is_warned_of(self, nested, data_for, tmp_path):
        said = r"ModelCheckpoint\('.*model\.h5'\): a \.h5 file .*as backbone is in FreezeScheduler"
        with pytest.warns(UserWarning, match=said):
            self.fit(nested, data_for, tmp_path / "model.h5", {0: "block1", 1: None})

    @pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
    def test_one_to_another_file_is_right(self, name, nested, data_for, tmp_path):
        model = self.fit(nested, data_for, tmp_path / name, {0: "block1"})
        other = nested(seed=5)
        if name == "model.keras":
            other = keras.models.load_model(tmp_path / name)
        else:
            other.load_weights(tmp_path / name)
        assert numbers(other.weights) == numbers(model.weights)

    @pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
    @pytest.mark.slow_on_jax
    def test_whole_layers_are_in_order(self, batch_norm, data_for, tmp_path):
        self.fit(batch_norm, data_for, tmp_path / "model.h5", {0: "block1", 1: None})
