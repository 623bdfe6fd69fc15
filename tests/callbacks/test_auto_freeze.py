"""`AutoFreeze`: what it measures and freezes in a fit, compared with gradients computed by hand."""

import keras
import numpy as np
import pytest
from effects import values

import keras_freeze as kf
from keras_freeze.keras_internals.gradients import loss_gradients

pytestmark = pytest.mark.backend

LAYERS = ("one", "two", "three", "four")
RATE, BATCH, EPOCHS, INTERVALS = 0.05, 4, 6, 8
ROWS = 20  # 5 batches an epoch: an interval of 4 ends in the middle of epochs


def build():
    keras.utils.set_random_seed(5)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,)),
            *[layers.Dense(7, activation="tanh", name=name) for name in LAYERS],
            layers.Dense(3, name="head"),
        ]
    )
    model.compile(keras.optimizers.SGD(RATE, clipnorm=10.0), "mse")
    return model


def data():
    rng = np.random.default_rng(1)
    return rng.normal(size=(ROWS, 6)).astype("float32"), rng.normal(size=(ROWS, 3)).astype(
        "float32"
    )


def fit(model, callback, **arguments):
    x, y = data()
    settings = {"batch_size": BATCH, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
    return model.fit(x, y, **{**settings, **arguments}, callbacks=[callback])


def auto_freeze(**arguments):
    arguments = {"intervals": INTERVALS, "backbone": list(LAYERS), "verbose": 0, **arguments}
    return kf.AutoFreeze(**{"cache": False, **arguments})


def by_hand(percentile):
    """Train by gradients that are computed apart; return norms and depth of each interval."""
    model = build()
    x, y = data()
    batches = [(x[n : n + BATCH], y[n : n + BATCH]) for n in range(0, ROWS, BATCH)] * EPOCHS
    length = -(-len(batches) // INTERVALS)
    variables = model.trainable_variables
    gradients, others = loss_gradients(model, variables)
    owner = [layer.name for layer in model.layers for _ in layer.trainable_variables]
    names, depth, depths, found = [*LAYERS, "head"], 0, [], []
    for begin in range(0, len(batches), length):
        sums = [np.zeros(v.shape) for v in variables]
        for inputs, targets in batches[begin : begin + length]:
            depths.append(depth)
            tensors = map(keras.ops.convert_to_tensor, (inputs, targets))
            computed, others = gradients(*tensors, None, others)
            for n, (variable, gradient) in enumerate(zip(variables, computed, strict=True)):
                if names.index(owner[n]) >= depth:
                    array = keras.ops.convert_to_numpy(gradient)
                    sums[n] += array
                    variable.assign(keras.ops.convert_to_numpy(variable) - RATE * array)
        norms = {}
        for name, total in zip(owner, sums, strict=True):
            norms[name] = norms.get(name, 0.0) + np.abs(total).sum()
        found.append(norms)
        if len(found) > 1 and begin + length < len(batches):
            own = names[depth:-1]
            change = [abs(found[-2][n] - found[-1][n]) / found[-2][n] for n in own]
            reaching = np.flatnonzero(change >= np.percentile(change, percentile))
            depth += int(reaching[0])
    return model, depths


@pytest.mark.at_commit("50")
@pytest.mark.parametrize("percentile", [50, 80])
def test_what_freezes_when_is_what_gradients_by_hand_say(percentile):
    expected, depths = by_hand(percentile)
    model, callback = build(), auto_freeze(percentile=percentile)
    history = fit(model, callback).history
    per_epoch = ROWS // BATCH
    assert history["freeze_depth"] == [depths[(n + 1) * per_epoch - 1] for n in range(EPOCHS)]
    assert history["freeze_depth"][-1] > 0
    for one, two in zip(values(model).values(), values(expected).values(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.slow_on_jax
def test_nothing_of_the_recording_is_left():
    model = build()
    fit(model, auto_freeze())
    assert len(model.optimizer.variables) == 2  # iterations and learning rate
    assert not [name for name in vars(model.optimizer) if "sums" in name]


@pytest.mark.slow
def test_what_is_frozen_is_cached():
    model = build()
    cache = kf.PrefixCache(auto=False, verbose=0)
    plain = fit(build(), auto_freeze(), epochs=16).history
    cached = fit(model, auto_freeze(cache=cache), epochs=16).history
    assert cached["freeze_depth"] == plain["freeze_depth"]
    np.testing.assert_allclose(cached["loss"], plain["loss"], rtol=1e-4)
    assert cache.statistics.hits


@pytest.mark.slow_on_jax
def test_decisions_name_the_groups(capsys):
    callback = auto_freeze(verbose=1)
    history = fit(build(), callback).history
    found = callback.decisions
    frozen = [row.what for row in found.rows]
    assert frozen == [f"{name} freezes" for name in LAYERS[: history["freeze_depth"][-1]]]
    assert all(row.value < row.threshold for row in found.rows)
    labels = {point.label for point in found.measured}
    assert labels <= set(LAYERS)
    printed = capsys.readouterr().out
    assert "one freezes (change of the gradient's norm" in printed
    assert f"depth {history['freeze_depth'][-1]} of 4" in printed


def test_data_of_unknown_length_are_refused():
    def batches():
        while True:
            yield data()

    with pytest.raises(ValueError, match=r"AutoFreeze\(intervals=\.\.\.\)"):
        build().fit(batches(), epochs=2, shuffle=False, verbose=0, callbacks=[auto_freeze()])
