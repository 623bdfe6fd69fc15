"""`MaxNorm`: bounds of incoming weights by group, compared with steps by hand."""

import keras
import numpy as np
import pytest
from effects import values

import keras_freeze as kf

pytestmark = pytest.mark.backend
layers = keras.layers

RATE, ROWS, BATCH = 0.1, 12, 4


def dense(optimizer=None):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="tanh", name="low"),
            layers.Dense(4, name="high", kernel_constraint=keras.constraints.NonNeg()),
            layers.Dense(3, name="head"),
        ]
    )
    model.compile(optimizer or keras.optimizers.SGD(RATE), "mse")
    return model


def data(shape=(6,), targets=3):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, *shape)), 9 * rng.normal(size=(ROWS, targets))
    return x.astype("float32"), y.astype("float32")


def fit(model, *callbacks, x_y=None, **arguments):
    x, y = data() if x_y is None else x_y
    settings = {"batch_size": BATCH, "epochs": 2, "shuffle": False, "verbose": 0}
    return model.fit(x, y, **{**settings, **arguments}, callbacks=list(callbacks))


class ByHand(keras.callbacks.Callback):
    """Scales the columns of kernels down after each batch."""

    def __init__(self, bounds):
        super().__init__()
        self.bounds = bounds

    def on_train_batch_end(self, batch, logs=None):
        for name, bound in self.bounds.items():
            kernel = self.model.get_layer(name).kernel
            array = keras.ops.convert_to_numpy(kernel)
            norm = np.linalg.norm(array, axis=0)
            kernel.assign(array * np.minimum(norm, bound) / norm)


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.1),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), 8.0),
    "several": lambda: keras.optimizers.MultiOptimizer(
        {keras.optimizers.SGD(0.1): ["low"], keras.optimizers.Adam(0.1): ["high", "head"]}
    ),
}


@pytest.mark.parametrize("bounds", [{"low": 0.5, "head": 1.0}, {"low|head": 0.7}], ids=str)
def test_columns_are_scaled_down_after_each_step(bounds):
    if keras.backend.backend() == "jax":
        pytest.skip("a callback's assignments in the middle of an epoch are lost there")
    model, expected = dense(), dense()
    fit(model, kf.MaxNorm(bounds))
    by_name = bounds if len(bounds) > 1 else dict.fromkeys(["low", "head"], 0.7)
    fit(expected, ByHand(by_name))
    for one, two in zip(values(model).values(), values(expected).values(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    free = dense()
    fit(free)
    assert norms(free, "head").max() > 1.0


def norms(model, name, axes=0):
    return np.sqrt((keras.ops.convert_to_numpy(model.get_layer(name).kernel) ** 2).sum(axes))


@pytest.mark.slow_on_jax
@pytest.mark.at_commit("scaled")
@pytest.mark.parametrize("optimizer", [o for o in OPTIMIZERS if o != "several"])
def test_whatever_the_optimizer(optimizer):
    model = dense(OPTIMIZERS[optimizer]())
    fit(model, kf.MaxNorm(0.5))
    for name in ("low", "head"):
        assert norms(model, name).max() <= 0.5 + 1e-5
    assert isinstance(model.get_layer("high").kernel.constraint, keras.constraints.NonNeg)


@pytest.mark.slow_on_jax
def test_what_is_frozen_is_left_and_what_unfreezes_is_bounded():
    model = dense()
    low = keras.ops.convert_to_numpy(model.get_layer("low").kernel)
    backbone = ["low", "high"]
    head_first = kf.FreezeScheduler({0: backbone, 2: None}, backbone=backbone, verbose=0)
    head_first.total_epochs = 3
    fit(model, head_first, kf.MaxNorm({"low": 0.3}, backbone=backbone), epochs=2)
    assert np.array_equal(keras.ops.convert_to_numpy(model.get_layer("low").kernel), low)
    fit(model, head_first, kf.MaxNorm({"low": 0.3}, backbone=backbone), epochs=3)
    assert norms(model, "low").max() <= 0.3 + 1e-5


def test_after_the_fit_nothing_is_bounded():
    model, plain = dense(), dense()
    fit(model, kf.MaxNorm(0.5))
    assert all(w.constraint is None for w in model.get_layer("low").weights)
    plain.set_weights(model.get_weights())
    fit(model)
    fit(plain)
    for one, two in zip(values(model).values(), values(plain).values(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)


class Interrupts(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise InterruptedError


@pytest.mark.slow_on_jax
def test_a_fit_after_an_interrupted_one():
    model, callback = dense(), kf.MaxNorm(0.5)
    with pytest.raises(InterruptedError):
        fit(model, callback, Interrupts())
    fit(model, callback)
    assert norms(model, "low").max() <= 0.5 + 1e-5
    assert model.get_layer("low").kernel.constraint is None


def convolutional():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, name="conv"),
            layers.Flatten(),
            layers.Dense(3, name="head"),
        ]
    )


def recurrent():
    return keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.Bidirectional(layers.LSTM(3), name="bi"),
            layers.Dense(3, name="head"),
        ]
    )


def attention():
    inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))


KINDS = {
    "conv": (convolutional, (6, 6, 2), {"conv/kernel": (0, 1, 2)}),
    "lstm": (recurrent, (5, 4), {"lstm_cell/kernel": 0, "recurrent_kernel": 0}),
    "attention": (
        attention,
        (5, 4),
        {"query/kernel": 0, "key/kernel": 0, "value/kernel": 0, "attention_output/kernel": (0, 1)},
    ),
}


@pytest.mark.slow_on_jax
@pytest.mark.at_commit("attention")
@pytest.mark.parametrize(("build", "shape", "axes"), KINDS.values(), ids=KINDS)
def test_units_of_other_layers(build, shape, axes):
    keras.utils.set_random_seed(0)
    model = build()
    model.compile("sgd", "mse")
    fit(model, kf.MaxNorm(0.2), x_y=data(shape))
    bounded = 0
    for weight in model.weights:
        for end, axis in {**axes, "head/kernel": 0}.items():
            if weight.path.endswith(f"/{end}") or weight.path == end:
                norm = np.sqrt((keras.ops.convert_to_numpy(weight) ** 2).sum(axis))
                assert norm.max() <= 0.2 + 1e-5, weight.path
                bounded += 1
                break
    assert bounded == sum(w.path.endswith("kernel") for w in model.weights)


def test_a_name_that_is_no_group_and_a_group_without_kernels():
    model = dense()
    with pytest.raises(ValueError, match=r"MaxNorm\(max_value=\.\.\.\) must name"):
        fit(model, kf.MaxNorm({"middle": 1.0}))
    with pytest.raises(ValueError, match=r"groups with kernels.*'high'"):
        fit(model, kf.MaxNorm({"high": 1.0}, groups={"low": "low", "high": "high", "top": "head"}))
