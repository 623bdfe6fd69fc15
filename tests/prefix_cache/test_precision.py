"""`PrefixCache(precision="bfloat16")`: what is computed before the cut, and nothing else."""

import keras
import numpy as np
import pytest
from cached import frozen, images
from keras import layers

import keras_freeze as kf
from keras_freeze.cuts import Setting, find
from keras_freeze.prefix_cache.lowering import lowerable

pytestmark = pytest.mark.backend
BACKEND = keras.backend.backend()
#: Of the largest feature: what a model of this depth makes of 8 significant bits.
BFLOAT16_FEATURES = 0.05


def fitted(build, data, **settings):
    keras.utils.set_random_seed(3)
    model = build()
    model.compile("sgd", "sparse_categorical_crossentropy")
    cache = kf.PrefixCache(auto=False, **settings)
    history = model.fit(*data, epochs=3, batch_size=8, verbose=0, callbacks=[cache])
    return model, cache, history.history["loss"]


def test_features_have_eight_bits_and_weights_all(batch_norm, capsys):
    build, data = frozen(batch_norm, 1), images()
    model, cache, losses = fitted(build, data, precision="bfloat16")
    plain, other, expected = fitted(build, data)
    assert "compute in bfloat16, with 8 significant bits" in capsys.readouterr().out
    assert cache.statistics.hits == other.statistics.hits > 0
    assert losses != expected
    np.testing.assert_allclose(losses, expected, rtol=BFLOAT16_FEATURES)
    assert {v.dtype for v in model.weights if "seed" not in v.path} == {"float32"}
    assert all(layer.dtype_policy.name == "float32" for layer in model.layers)
    for new, old in zip(model.weights, plain.weights, strict=True):
        if "block1" in new.path:
            assert np.array_equal(*map(keras.ops.convert_to_numpy, (new, old)))
    if BACKEND != "torch":  # whose arrays have no bfloat16
        assert 2 * cache.statistics.nbytes == other.statistics.nbytes


@pytest.mark.slow_on_jax
def test_a_mixed_layer_stays_as_it_is(capsys):
    def build():
        inputs = keras.Input((16,))
        x = layers.Dense(8, name="low", dtype="mixed_float16")(inputs)
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    x = np.random.default_rng(0).normal(size=(16, 16)).astype("float32")
    data = x, np.arange(16) % 3
    build = frozen(build, layers=["low"])
    _, _, losses = fitted(build, data, precision="bfloat16")
    assert "bfloat16" not in capsys.readouterr().out
    assert losses == fitted(build, data)[2]


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("settings", [{"look_ahead": 2}, {"keep": True}], ids=str)
@pytest.mark.at_commit("{'keep': True}")
def test_with_other_settings(settings, batch_norm, tmp_path):
    if "keep" in settings:
        settings["directory"] = tmp_path
    build, data = frozen(batch_norm, 1), images()
    plain = fitted(build, data, precision="bfloat16")[2]
    for _ in range(2):  # the second finds what the first has kept
        _, cache, losses = fitted(build, data, precision="bfloat16", **settings)
        np.testing.assert_allclose(losses, plain, rtol=1e-2)
    if "keep" in settings:
        assert cache.statistics.misses == 0
        # Features of another precision are other features.
        assert fitted(build, data, **settings)[1].statistics.misses > 0


def test_the_argument():
    with pytest.raises(ValueError, match='must be None or "bfloat16"'):
        kf.PrefixCache(precision="float16")


@pytest.mark.slow_on_jax
def test_in_inference_mode(batch_norm):
    build = frozen(batch_norm, 1)
    _, cache, losses = fitted(build, images(), precision="bfloat16", mode="inference")
    assert cache.statistics.hits
    assert losses == pytest.approx(fitted(build, images(), mode="inference")[2], rel=0.05)


@pytest.mark.slow_on_jax
def test_validation_is_of_the_same_features(batch_norm):
    keras.utils.set_random_seed(3)
    model = frozen(batch_norm, 1)()
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = images()
    cache = kf.PrefixCache(auto=False, precision="bfloat16")
    settings = {"validation_data": (x, y), "epochs": 3, "verbose": 0, "callbacks": [cache]}
    history = model.fit(x, y, **settings)
    whole = model.evaluate(x, y, verbose=0)
    assert history.history["val_loss"][-1] == pytest.approx(whole, rel=BFLOAT16_FEATURES)
    assert history.history["val_loss"][-1] != whole


def test_what_prepares_inputs_stays_in_float32():
    """Pixels have 8 bits before they are scaled: 257 would be 256."""

    def build():
        inputs = keras.Input((16,))
        x = layers.Rescaling(1.0, offset=-256.0)(inputs)
        x = layers.Dense(8, name="low")(x)
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    x = np.random.default_rng(0).integers(256, 260, (16, 16)).astype("float32")
    data, build = (x, np.arange(16) % 3), frozen(build, layers=["low"])
    losses = fitted(build, data, precision="bfloat16")[2]
    np.testing.assert_allclose(losses, fitted(build, data)[2], rtol=0.02)


def _ids_behind(*movers):
    def build():
        x = inputs = keras.Input((4,))
        for mover in movers:
            x = mover(x)
        x = layers.GlobalAveragePooling1D(name="pool")(layers.Embedding(1000, 8, name="low")(x))
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    return build, np.random.default_rng(0).integers(512, 516, (16, 4))


def _years_behind(*movers, normalized=None):
    def build():
        x = inputs = keras.Input((4,))
        for mover in movers:
            x = mover(x)
        scale = normalized or layers.Normalization(mean=2010.0, variance=9.0, name="scale")
        x = layers.Dense(8, name="low")(layers.Flatten(name="flat")(scale(x)))
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    return build, np.random.default_rng(0).integers(2005, 2016, (16, 4))


def _masked():
    inputs = keras.Input((4, 1))
    x = layers.LSTM(8, name="low")(layers.Masking(-999.0, name="mask")(inputs))
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))


def _twice(x):
    return layers.Concatenate(name="twice")([x, x])


def _nested(x):
    inside = keras.Input((4,))
    return keras.Model(inside, layers.Reshape((2, 2), name="shape")(inside), name="inner")(x)


#: Inputs that 8 significant bits would change, behind what only moves them.
EXACT = {
    "ids, reshaped": _ids_behind(layers.Reshape((4,))),
    "ids, flattened and joined": _ids_behind(layers.Flatten(), _twice),
    "years, reshaped": _years_behind(layers.Reshape((2, 2))),
    "years, in a nested model": _years_behind(_nested),
    "years, one by one": _years_behind(
        layers.Reshape((4, 1)),
        normalized=layers.TimeDistributed(layers.Rescaling(0.3, -603.0), name="scale"),
    ),
    "years, by a BatchNormalization": _years_behind(
        normalized=layers.BatchNormalization(
            moving_mean_initializer=keras.initializers.Constant(2010.0),
            moving_variance_initializer=keras.initializers.Constant(9.0),
            name="scale",
        )
    ),
    "steps, masked": (_masked, np.random.default_rng(0).choice([-999.0, -1001.0], (16, 4, 1))),
}


@pytest.mark.slow_on_jax
@pytest.mark.at_commit("ids, reshaped", "years, in a nested model", "steps, masked")
@pytest.mark.parametrize(("build", "x"), EXACT.values(), ids=EXACT)
def test_inputs_are_not_rounded_before_they_are_used(build, x):
    data = x.astype("float32"), np.arange(16) % 3
    build = frozen(build, matching="low|scale")
    _, cache, losses = fitted(build, data, precision="bfloat16")
    assert cache.statistics.hits
    np.testing.assert_allclose(losses, fitted(build, data)[2], rtol=0.02)


def _names_of_lowered(model, frozen_layers):
    kf.freeze(model, layers=frozen_layers)
    frontier = find(model, Setting(trained=tuple(map(id, model.trainable_variables))))
    return {layer.name for layer in lowerable(frontier)}


def test_what_follows_the_first_product_is_computed_in_bfloat16():
    build, _ = _years_behind(layers.Reshape((2, 2), name="shape"))
    assert _names_of_lowered(build(), ["low", "scale"]) == {"low"}
    build, _ = _ids_behind(layers.Reshape((4,), name="shape"))
    assert _names_of_lowered(build(), ["low"]) == {"low", "pool"}


def test_a_layer_that_also_gets_inputs_stays():
    inputs = keras.Input((4,))
    shared = layers.ReLU(name="shared")
    low = layers.Dense(4, name="low")
    x = layers.Add(name="sum")([shared(low(inputs)), shared(inputs)])
    x = layers.Dense(4, name="next")(x)
    model = keras.Model(inputs, layers.Dense(1, name="head")(x))
    assert _names_of_lowered(model, ["low", "next"]) == {"low", "next"}


def test_a_nested_model_is_walked_too():
    inside = keras.Input((4,))
    x = layers.ReLU(name="first")(inside)
    x = layers.ReLU(name="then")(layers.Dense(4, name="low")(x))
    inner = keras.Model(inside, x, name="inner")
    inputs = keras.Input((4,))
    model = keras.Model(
        inputs, layers.Dense(1, name="head")(layers.ReLU(name="last")(inner(inputs)))
    )
    assert _names_of_lowered(model, ["inner"]) == {"low", "then", "last"}


def test_what_stays_in_float32_is_named(capsys):
    def build():
        inputs = keras.Input((4,))
        policy = keras.dtype_policies.DTypePolicyMap(default_policy="float32")
        x = layers.Dense(8, name="mapped", dtype=policy)(inputs)
        x = layers.Dense(8, name="low")(x)
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    data = x, np.arange(16) % 3
    fitted(frozen(build, layers=["mapped", "low"]), data, precision="bfloat16")
    assert "8 significant bits, but for mapped." in capsys.readouterr().out
