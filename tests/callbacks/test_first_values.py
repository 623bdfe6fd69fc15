"""How far weights have moved since the training began, compared with numpy."""

import keras
import numpy as np
import pytest
from effects import values
from pretrained_models import as_if_trained

import keras_freeze as kf

pytestmark = pytest.mark.backend


def build(lora=False):
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, name="low"),
            layers.BatchNormalization(name="low_bn"),
            layers.Dense(4, name="mid"),
            layers.Dense(3, name="head"),
        ]
    )
    if lora:
        model.get_layer("mid").enable_lora(2)
    # Eagerly, since a transition would trace the step again.
    model.compile(keras.optimizers.Adam(0.05), "mse", run_eagerly=True)
    return as_if_trained(model)


def scheduler(schedule, details=("weight_change",), **arguments):
    arguments = {"batch_norm": "follow", "cache": False, "verbose": 0, **arguments}
    groups = {"low": "low", "mid": "mid", "top": "head"}
    return kf.FreezeScheduler(schedule, groups=groups, log_details=list(details), **arguments)


def fit(model, callbacks, epochs=3, **arguments):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 6)).astype("float32")
    y = rng.normal(size=(8, 3)).astype("float32")
    settings = {"batch_size": 4, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, **settings).history


def change(before, after, sign):
    """Return what is to be logged of what has `sign` in its path, moving statistics left out."""
    names = [n for n in before if sign in n and "moving" not in n]
    one, two = (np.concatenate([v[n].ravel() for n in names]) for v in (before, after))
    return np.linalg.norm(two - one) / np.linalg.norm(one)


def test_the_change_is_that_of_all_weights_since_the_beginning():
    model = build()
    before = values(model)
    history = fit(model, [scheduler({0: "low"})])
    after = values(model)
    assert history["weight_change/low"] == [0.0] * 3
    for group, sign in (("mid", "mid"), ("top", "head")):
        found = history[f"weight_change/{group}"]
        assert found[-1] == pytest.approx(change(before, after, sign), rel=1e-4)
        assert 0 < found[0] < found[-1]


@pytest.mark.slow_on_jax
def test_moving_statistics_are_no_weights_that_moved():
    model = build()
    before = values(model)
    history = fit(model, [scheduler({0: None})], epochs=1)
    after = values(model)
    moving = [name for name in before if "moving" in name]
    assert any((before[name] != after[name]).any() for name in moving)
    assert history["weight_change/low"] == [pytest.approx(change(before, after, "low"), rel=1e-4)]


@pytest.mark.slow_on_jax
def test_adapters_count_with_their_base():
    model = build(lora=True)
    before = values(model)
    history = fit(model, [scheduler({0: "low"})])
    after = values(model)
    kernel = next(name for name in before if name.endswith("mid/kernel"))
    np.testing.assert_array_equal(before[kernel], after[kernel])
    expected = change(before, after, "mid")
    assert expected > 0
    assert history["weight_change/mid"][-1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow_on_jax
@pytest.mark.slow
def test_a_fit_that_continues_compares_with_the_first_values_and_a_new_one_does_not():
    model, whole = build(), build()
    before = values(model)
    expected = fit(whole, [scheduler({0: "low", 2: None})], epochs=4)
    fit(model, [scheduler({0: "low", 2: None}, total_epochs=4)], epochs=2)
    found = fit(model, [scheduler({0: "low", 2: None})], epochs=4, initial_epoch=2)
    for name in ("low", "mid", "top"):
        key = f"weight_change/{name}"
        assert found[key] == pytest.approx(expected[key][2:], rel=1e-4)
    assert found["weight_change/mid"][-1] == pytest.approx(
        change(before, values(model), "mid"), rel=1e-4
    )
    middle = values(model)
    again = fit(model, [scheduler({0: None})], epochs=1)
    assert again["weight_change/mid"] == [
        pytest.approx(change(middle, values(model), "mid"), rel=1e-4)
    ]


def test_a_fit_that_continues_what_is_not_known_is_refused():
    message = r"log_details=\.\.\.\) must have .weight_change. from the first epoch.*epoch 1,"
    with pytest.raises(ValueError, match=f"(?s){message}"):
        fit(build(), [scheduler({0: "low"})], initial_epoch=1)


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.slow_on_jax
def test_a_resumed_fit_compares_with_the_first_values(tmp_path):
    def callbacks():
        return [scheduler({0: "low"}), kf.BackupAndRestore(tmp_path)]

    whole = fit(build(), [scheduler({0: "low"})])
    with pytest.raises(KeyboardInterrupt):
        fit(build(), [*callbacks(), Stop()])
    other = build()
    other.get_layer("mid").set_weights([w + 1 for w in other.get_layer("mid").get_weights()])
    resumed = fit(other, callbacks())
    for name in ("low", "mid", "top"):
        key = f"weight_change/{name}"
        assert resumed[key] == pytest.approx(whole[key], rel=1e-4)


@pytest.mark.slow_on_jax
def test_a_backup_without_them_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(build(), [scheduler({0: "low"}, ()), kf.BackupAndRestore(tmp_path), Stop()])
    with pytest.raises(ValueError, match=r"log_details=\.\.\.\) must be that of the backup"):
        fit(build(), [scheduler({0: "low"}), kf.BackupAndRestore(tmp_path)])
