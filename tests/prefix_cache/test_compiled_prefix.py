"""The first half of a cut model is compiled as the whole would be, so that it rounds the same."""

import cached
import keras
import pytest
from cached import frozen, images, on_tensorflow
from keras import layers

import keras_freeze as kf
from keras_freeze.prefix_cache import compiled_prefix

slow = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "rows"),
    [
        ("scale", 24),
        ("conv_2", 20),
        ("conv_2", 24),
        ("scale", 20),
        ("hidden", 20),
    ],
)
def test_convolutions_below_a_normalisation(before, rows):
    # TensorFlow orders the normalisation's products by what it knows of the batch's size.
    def build():
        inputs = keras.Input((8, 8, 2))
        x = layers.Conv2D(32, 3, activation="relu", name="conv_1")(inputs)
        x = layers.Conv2D(64, 3, activation="relu", name="conv_2")(x)
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        x = layers.LayerNormalization(name="scale")(x)
        x = layers.Dense(32, activation="relu", name="hidden")(x)
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="classes")(x))

    cached.compare(frozen(build, before=before), images(rows))


@on_tensorflow
def test_a_cut_is_tried_with_the_function_that_is_traced_already(batch_norm, monkeypatch):
    traced, own = [], compiled_prefix.features_of
    monkeypatch.setattr(
        compiled_prefix, "features_of", lambda *args: traced.append(args[2].shape[0]) or own(*args)
    )
    cache = kf.PrefixCache(auto=False, verbose=0)
    cached.fit(frozen(batch_norm, 1), images(rows=24), cache, epochs=1, validate=True)
    assert traced == [8]  # the size of all batches, in training and validation


@slow
@on_tensorflow
def test_compiled_by_xla_it_agrees_up_to_rounding(batch_norm):
    options = {"compile_options": {"jit_compile": True}}
    cached.compare(frozen(batch_norm, 1), images(), exact=False, epochs=2, **options)


@pytest.mark.backend
@pytest.mark.parametrize("precision", ["mixed_float16", pytest.param("mixed_bfloat16", marks=slow)])
@pytest.mark.slow_on_jax
def test_other_precisions(precision, nested):
    keras.config.set_dtype_policy(precision)
    try:
        cached.compare(frozen(nested, layers=["backbone"]), images())
    finally:
        keras.config.set_dtype_policy("float32")
