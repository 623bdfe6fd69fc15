"""`find_learning_rate`: losses are those of steps by hand, and the model stays as it is."""

import random
import warnings

import keras
import numpy as np
import pytest
from keras import layers
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze.engine import snapshot

pytestmark = [
    pytest.mark.backend,
    pytest.mark.filterwarnings("ignore:.*still falls at the highest rate"),
]
BACKEND = keras.backend.backend()


def linear():
    """Return two linear layers, whose gradients are easy to write down."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="low", use_bias=False),
            layers.Dense(2, name="head", use_bias=False),
        ],
        name="linear",
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def data(rows=32):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 4)).astype("float32")
    return x, x @ rng.normal(size=(4, 2))


class Batches(keras.utils.PyDataset):
    """Batches that another epoch would have in another order."""

    def __init__(self, x, y, size=8):
        super().__init__()
        self.x, self.y, self.size, self.epochs = x, y, size, 0

    def __len__(self):
        return len(self.x) // self.size

    def __getitem__(self, n):
        rows = slice(n * self.size, (n + 1) * self.size)
        return self.x[rows], self.y[rows]

    def on_epoch_end(self):
        self.epochs += 1
        self.x = self.x[::-1]


def by_hand(model, batches, rates, low=1.0, head=1.0):
    """Return the losses of steps of gradient descent whose rates rise."""
    w1, w2 = (keras.ops.convert_to_numpy(v).astype("float64") for v in model.weights)
    losses = []
    for n, rate in enumerate(rates):
        x, y = batches[n % len(batches)]
        error = x @ w1 @ w2 - y
        losses.append(np.mean(error**2))
        d = 2 * error / y.size
        g1, g2 = x.T @ d @ w2.T, (x @ w1).T @ d
        w1, w2 = w1 - rate * low * g1, w2 - rate * head * g2
    return losses


def test_losses_are_those_of_steps_by_hand():
    model, batches = linear(), Batches(*data())
    found = kf.find_learning_rate(model, batches, lowest=1e-4, highest=1.0, steps=30)
    (test,) = found.tests
    assert test.training == ("head", "low")
    assert test.rates == pytest.approx(np.geomspace(1e-4, 1.0, 30)[: len(test.rates)])
    assert test.losses == pytest.approx(by_hand(model, batches, test.rates), rel=1e-4)
    assert batches.epochs == 0


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.data")
def test_a_dataset_is_read_without_a_warning():
    import tensorflow as tf

    model, batches = linear(), Batches(*data())
    rows = tf.data.Dataset.from_tensor_slices(data()).batch(8)
    (test,) = kf.find_learning_rate(model, rows, lowest=1e-4, highest=1.0, steps=20).tests
    assert test.losses == pytest.approx(by_hand(model, batches, test.rates), rel=1e-4)


def test_each_phase_begins_from_the_present_weights_with_its_groups_at_their_multiples():
    model, batches = linear(), Batches(*data())
    callback = kf.GradualUnfreeze(rates=4.0, backbone="low")
    found = kf.find_learning_rate(model, batches, schedule=callback, lowest=1e-4, steps=20)
    first, second = found.tests
    assert (first.training, second.training) == (("head",), ("head", "low"))
    assert first.losses == pytest.approx(by_hand(model, batches, first.rates, low=0), rel=1e-4)
    assert second.losses == pytest.approx(by_hand(model, batches, second.rates, low=0.25), rel=1e-4)


def test_it_ends_where_the_loss_diverges():
    model = linear()
    found = kf.find_learning_rate(model, Batches(*data()), lowest=1e-3, highest=1e3, steps=60)
    (test,) = found.tests
    assert len(test.rates) < 60
    assert test.diverged_at == test.rates[-1]
    # Descent on the loss of the head alone diverges above 2 / its largest curvature.
    x, y = data()
    hidden = x @ keras.ops.convert_to_numpy(model.weights[0])
    bound = 2 / np.linalg.eigvalsh(2 * hidden.T @ hidden / y.size).max()
    assert bound / 300 < found.learning_rate < bound


def noisy():
    """Return a model that draws, has statistics, and whose optimizer has slots."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, name="low"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.5, seed=2),
            layers.Dense(2, name="head"),
        ],
        name="noisy",
    )
    return as_if_trained(model)


def everything(model):
    """Return all that training changes, as arrays."""
    state = snapshot.capture(model)
    seeds = [keras.ops.convert_to_numpy(v) for v in model.variables]
    optimizer = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
    return [state["weights"], seeds, optimizer, [v.trainable for v in model.weights]]


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "averages": lambda: keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True),
    "accumulates": lambda: keras.optimizers.RMSprop(0.01, gradient_accumulation_steps=2),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("is_trained", [False, True], ids=["new", "trained"])
@pytest.mark.at_commit("trained-adam")
def test_a_training_is_what_it_would_have_been_without(optimizer, is_trained):
    if BACKEND == "jax" and is_trained and optimizer == "averages":
        pytest.skip("Keras 3.15.1 can't fit twice with use_ema on JAX")
    x, y = data()

    def train(looks):
        model = noisy()
        model.compile(OPTIMIZERS[optimizer](), "mse", metrics=["mae"])
        kf.freeze(model, layers=["low"])
        if is_trained:
            model.fit(x, y, batch_size=8, verbose=0)
        before = everything(model), model.optimizer.built, random.getstate()
        if looks:
            schedule = {0: "low", 1: None}
            kf.find_learning_rate(model, x, y, schedule=schedule, batch_size=8, steps=20)
            after = everything(model), model.optimizer.built, random.getstate()
            keras.tree.map_structure(np.testing.assert_array_equal, after, before)
        history = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history
        return everything(model), history

    for one, other in zip(train(True), train(False), strict=True):
        keras.tree.map_structure(np.testing.assert_array_equal, one, other)


def test_rates_that_are_all_too_low_are_warned_of():
    with pytest.warns(UserWarning, match="phase 0 still falls at the highest rate, 0.01. Pass a"):
        x, y = data()
        kf.find_learning_rate(linear(), Batches(x, y, 32), lowest=1e-3, highest=0.01, steps=20)


@pytest.mark.filterwarnings("ignore:.*labels are the same")
def test_where_no_rate_is_too_high_the_data_are_doubted():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32") + 3
    with pytest.warns(UserWarning, match="highest rate, 10. Few models train at such a rate: look"):
        kf.find_learning_rate(model, x, np.zeros(64, int), steps=20)


@pytest.mark.filterwarnings("ignore:.*still falls")
@pytest.mark.parametrize(
    "y, text", [(np.arange(64) % 2, None), (np.zeros(64, int), "All 64 labels are the same")]
)
def test_labels_that_teach_nothing_are_warned_of(y, text):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kf.find_learning_rate(model, x, y, steps=20)
    labels = [str(one.message) for one in told if "labels are" in str(one.message)]
    assert [text in one for one in labels] == ([True] if text else [])


def test_it_is_undone_where_training_fails():
    class Boom(Batches):
        def __getitem__(self, n):
            if n == 2:
                raise OSError("gone")
            return super().__getitem__(n)

    model = linear()
    before = everything(model)
    with pytest.raises(Exception, match="gone"):
        kf.find_learning_rate(model, Boom(*data()), schedule={0: "low"})
    keras.tree.map_structure(np.testing.assert_array_equal, everything(model), before)
    assert float(model.optimizer.learning_rate) == np.float32(0.1)


@pytest.mark.skipif(BACKEND == "torch", reason="no float16 on the processor")
def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = linear()
    finally:
        keras.config.set_dtype_policy("float32")
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    found = kf.find_learning_rate(model, *data(), lowest=1e-3, highest=1e3)
    assert 1e-3 < found.learning_rate < 10
    assert float(model.optimizer.learning_rate) == np.float32(0.1)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"lowest": 0}, r"find_learning_rate\(lowest=...\) must be a positive number"),
        ({"highest": float("inf")}, r"find_learning_rate\(highest=...\) must be a positive number"),
        ({"lowest": 1.0, "highest": 0.1}, r"\(lowest=...\) must be below highest=0.1"),
        ({"steps": 19}, r"find_learning_rate\(steps=...\) must be an int of at least 20"),
        ({"schedule": kf.GradualUnfreeze("auto")}, "must be known before training to be"),
        ({"schedule": {0: "nowhere"}}, "nowhere"),
    ],
    ids=["no rate", "infinite", "crossed", "few steps", "auto", "unknown group"],
)
def test_what_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        kf.find_learning_rate(linear(), *data(), **arguments)


def test_data_that_can_be_read_once_are_refused():
    x, y = data()
    with pytest.raises(TypeError, match="must be data that can be read again"):
        kf.find_learning_rate(linear(), iter([(x, y)]))


@pytest.mark.parametrize(
    ("optimizer", "match"),
    [
        (None, "must be compiled with one optimizer"),
        (keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 5)), "a CosineDecay"),
    ],
    ids=["not compiled", "a schedule of its own"],
)
def test_a_model_without_a_number_as_its_rate_is_refused(optimizer, match):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    if optimizer is not None:
        model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match=match):
        kf.find_learning_rate(model, *data())
