"""Schedules for the layer groups above a freeze depth."""

import keras
import numpy as np
import pytest
from small_searches import fixed

from keras_freeze import tuning

pytestmark = pytest.mark.backend


def test_what_is_frozen_stays_so(plain):
    hp = fixed(freeze_depth=1)
    model = plain()
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    tuning.freeze_depth(hp, model)
    before = model.get_layer("low").get_weights()
    callback = tuning.schedule(hp, choices=[1], verbose=0)
    x = np.random.default_rng(0).normal(size=(16, 4))
    history = model.fit(x, np.zeros(16), epochs=4, verbose=0, callbacks=[callback])
    for a, b in zip(before, model.get_layer("low").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert history.history["trainable_params"] == [18, 53, 53, 53]


@pytest.mark.parametrize("unit", ["layer", "fraction"])
def test_what_is_frozen_stays_so_in_other_units(plain, unit):
    hp = fixed(freeze_depth=1 if unit == "layer" else 0.5)
    model = plain()
    model.compile("sgd", "sparse_categorical_crossentropy")
    tuning.freeze_depth(hp, model, unit=unit)
    callback = tuning.rates(hp, schedule={0: "head", 1: ["middle", "low"]}, verbose=0)
    x = np.ones((4, 4))
    history = model.fit(x, np.zeros(4), epochs=2, verbose=0, callbacks=[callback])
    assert history.history["trainable_params"] == [18, 53]


@pytest.mark.parametrize(
    ("groups", "depth", "counts"),
    [
        ([["low", "middle"], ["head"]], 2, [18, 18, 18]),
        ([["low", "middle"], ["head"]], 1, [18, 53, 53]),
        (None, 2, [18, 18, 18]),
    ],
)
def test_other_groups_than_those_of_the_depth(plain, groups, depth, counts):
    hp = fixed(freeze_depth=depth)
    model = plain()
    model.compile("sgd", "sparse_categorical_crossentropy")
    tuning.freeze_depth(hp, model)
    callback = tuning.schedule(hp, choices=["even"], groups=groups)
    starts = callback.phase_starts(model, 3)
    history = model.fit(np.ones((4, 4)), np.zeros(4), epochs=3, verbose=0, callbacks=[callback])
    assert history.history["trainable_params"] == counts
    assert len(starts) == len(set(counts))
    planned = [row.trainable_params for row in callback.preview(model, 3).rows]
    assert planned == list(dict.fromkeys(counts))


def test_without_a_depth_an_untrained_model_trains_whole_and_says_so():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    callback = tuning.schedule(fixed(), choices=["even"], verbose=0)
    with pytest.warns(UserWarning, match="nothing in model .* is pretrained"):
        history = model.fit(
            np.ones((4, 4)), np.ones((4, 2)), epochs=2, verbose=0, callbacks=[callback]
        )
    assert history.history["non_trainable_params"] == [0, 0]


@pytest.mark.parametrize("depth", [0, 1])
def test_only_groups_above_the_depth_need_an_epoch_each(plain, depth, capsys):
    hp = fixed(freeze_depth=depth)
    model = plain()
    model.compile("sgd", "sparse_categorical_crossentropy")
    tuning.freeze_depth(hp, model)
    callback = tuning.schedule(hp, choices=["even"])
    model.fit(np.ones((4, 4)), np.zeros(4), epochs=2, verbose=0, callbacks=[callback])
    assert ("several groups unfreeze at once" in capsys.readouterr().out) == (depth == 0)


def test_a_schedule_that_finds_the_depth_itself(plain):
    hp = fixed(schedule="auto")
    model = plain()
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = np.ones((4, 4)), np.zeros(4)
    arguments = {"epochs": 6, "validation_data": (x, y), "verbose": 0}
    callback = tuning.schedule(hp, choices=["auto", "even"], verbose=0)
    history = model.fit(x, y, callbacks=[callback], **arguments).history
    assert "freeze_depth" in history
    tuning.freeze_depth(fixed(freeze_depth=1), model)
    with pytest.raises(ValueError, match="not find the freeze depth itself"):
        model.fit(x, y, callbacks=[callback], **arguments)
