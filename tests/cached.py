"""Models, data and fits with and without a prefix cache, compared in everything that they leave."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

import keras_freeze as kf
from keras_freeze.engine import optimizer_state

BACKEND = keras.backend.backend()
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")


def frozen(build, depth=None, **where):
    """Return a factory of the model with a part of it frozen."""

    def make():
        model = build()
        kf.freeze(model, **({"groups": depth} if depth is not None else where))
        return model

    return make


def images(rows=20, size=8, channels=2, classes=3):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, size, size, channels)).astype("float32")
    return x, rng.integers(0, classes, rows)


def vectors(rows=20, seed=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 4)).astype("float32"), rng.integers(0, 3, rows)


def tokens(rows=20):
    rng = np.random.default_rng(3)
    return rng.integers(0, 11, (rows, 6)).astype("int32"), rng.integers(0, 3, rows)


def dense_stack(cls=keras.Model):
    """Three dense layers: `low`, `middle`, `head`."""
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="relu", name="low")(inputs)
    x = layers.Dense(5, activation="relu", name="middle")(x)
    return cls(inputs, layers.Dense(3, activation="softmax", name="head")(x))


class Custom(layers.Layer):
    """A layer that is not known to be deterministic."""

    def call(self, x):
        return x * 2.0


class At(keras.callbacks.Callback):
    """Does something to the model at a moment."""

    def __init__(self, action, epoch=1, batch=None):
        super().__init__()
        self.action, self.epoch, self.batch, self.now = action, epoch, batch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch
        if self.batch is None and epoch == self.epoch:
            self.action(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch):
            self.action(self.model)


def scale_kernel(model):
    """Change a weight of the first layer of `batch_norm`."""
    kernel = next(v for v in model.weights if v.path.endswith("block1_conv/kernel"))
    kernel.assign(kernel * 1.5)


@dataclasses.dataclass
class Outcome:
    """What a fit left behind; equal weights imply equal predictions."""

    history: dict
    weights: list
    optimizer: list


def fit(build, data, *callbacks, compile_options=(), validate=False, **settings):
    """Build a model, train it, and return all that can be compared."""
    keras.utils.set_random_seed(7)
    model = build()
    # A mean squared error where an output is a number, else a cross-entropy.
    losses = [
        "mse" if t.shape[-1] == 1 else "sparse_categorical_crossentropy"
        for t in getattr(model, "outputs", None) or [keras.KerasTensor((None, 3))]
    ]
    loss = losses if len(losses) > 1 else losses[0]
    model.compile(
        **{"optimizer": keras.optimizers.SGD(0.1, 0.9), "loss": loss, **dict(compile_options)}
    )
    if isinstance(data, tuple):
        settings = {"batch_size": 8, **settings}
        if validate:
            settings["validation_data"] = data
        data, settings["y"] = data
    history = model.fit(data, verbose=0, callbacks=list(callbacks), **settings)
    return Outcome(
        history.history,
        [optimizer_state.to_host(v) for v in model.weights],
        [optimizer_state.to_host(v) for v in model.optimizer.variables],
    )


def assert_same(left, right, exact=BACKEND == "tensorflow"):
    """Compare two outcomes: to the last bit, or up to the rounding of floats."""

    def compare(a, b):
        if exact:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(
                np.asarray(a, "float64"), np.asarray(b, "float64"), rtol=2e-3, atol=2e-5
            )

    assert left.history.keys() == right.history.keys()
    for name in left.history:
        compare(left.history[name], right.history[name])
    for name in ("weights", "optimizer"):
        for a, b in zip(getattr(left, name), getattr(right, name), strict=True):
            compare(a, b)


# Fits without a cache that several tests compare with, by the name that they give them.
_plain = {}


def compare(
    build, data, *others, expect_hits=True, cache=None, epochs=3, plain="", exact=None, **settings
):
    """Fit with and without a cache, and return the statistics.

    Args:
        build: Makes the model.
        data: What it is trained on.
        others: Callback classes or factories, called again for each fit.
        expect_hits: Bool, whether anything is to be looked up.
        cache: `PrefixCache`.
        epochs: Int.
        plain: Str, a name for the model and data: the fit without a cache is made once for it.
        exact: Bool, whether to compare to the last bit; by default where the backend allows it.
        settings: Further arguments of `fit`.
    """
    cache = cache or kf.PrefixCache(auto=False, verbose=0)
    key = plain, epochs, repr(sorted(settings.items()))
    if not plain or key not in _plain:
        _plain[key] = fit(build, data, *(other() for other in others), epochs=epochs, **settings)
    outcome = fit(build, data, *(other() for other in others), cache, epochs=epochs, **settings)
    assert_same(outcome, _plain[key], *(() if exact is None else (exact,)))
    assert (cache.statistics.hits > 0) == expect_hits, cache.statistics
    return cache.statistics
