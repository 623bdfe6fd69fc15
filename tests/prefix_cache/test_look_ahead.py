"""Features of several batches are computed together, and nothing else changes (TensorFlow)."""

import cached
import keras
import numpy as np
import pytest
from keras import layers

import keras_freeze as kf
from keras_freeze.prefix_cache.compiled_prefix import Prefix

pytestmark = cached.on_tensorflow


def network():
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))


BUILD = cached.frozen(network, layers=["conv"])


@pytest.fixture
def sizes(monkeypatch):
    """Return the sizes of the batches that a prefix computes."""
    found, call = [], Prefix.__call__

    def counted(self, batch, features=()):
        found.append(batch.rows)
        return call(self, batch, features)

    monkeypatch.setattr(Prefix, "__call__", counted)
    return found


def both(data, *others, rows=20, look_ahead=3, **settings):
    """Fit without a cache and with one that looks ahead; compare, and return its statistics."""
    settings = {"epochs": 3, **settings}
    cache = kf.PrefixCache(auto=False, verbose=0, look_ahead=look_ahead)
    plain = cached.fit(BUILD, data(), *(other() for other in others), **settings)
    ahead = cached.fit(BUILD, data(), *(other() for other in others), cache, **settings)
    for got, wanted in zip(ahead.weights, plain.weights, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    for name, values in plain.history.items():
        np.testing.assert_allclose(ahead.history[name], values, rtol=1e-4)
    assert cache.statistics.misses == rows
    return cache.statistics


def arrays():
    return cached.images(20)


class Reshuffled(keras.utils.PyDataset):
    """Batches of 4, in another order in each epoch."""

    def __init__(self, size=4):
        super().__init__()
        self.rng, self.size = np.random.default_rng(5), size
        self.on_epoch_end()

    def __len__(self):
        return -(-20 // self.size)

    def on_epoch_end(self):
        self.order = self.rng.permutation(20)

    def __getitem__(self, index):
        rows = self.order[self.size * index : self.size * (index + 1)]
        x, y = cached.images(20)
        return x[rows], y[rows]


def test_batches_are_computed_together(sizes):
    statistics = both(arrays, batch_size=4, shuffle=False)
    assert sizes[0] == 4  # to try the cut
    assert 12 in sizes
    assert statistics.hits == 40


@pytest.mark.at_commit("6-14")
@pytest.mark.parametrize(("size", "most"), [(4, 12), (6, 14)])
def test_any_order_and_a_last_batch_that_is_smaller(size, most, sizes):
    both(lambda: Reshuffled(size))
    assert max(sizes) == most


def test_data_without_an_end():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(cached.images(20)).batch(4).repeat()
    both(lambda: data, steps_per_epoch=5, shuffle=False)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # as in plain Keras
def test_data_of_unknown_length():
    def data():
        import tensorflow as tf

        whole = tf.data.Dataset.from_tensor_slices(cached.images(20)).batch(4)
        return whole.filter(lambda x, y: True)

    both(data, shuffle=False)


@pytest.mark.slow
def test_several_batches_an_execution():
    both(arrays, batch_size=4, compile_options={"steps_per_execution": 2})


def test_a_transition_in_mid_epoch_leaves_no_batch_out():
    """What was read ahead is trained on, whatever becomes of the cut."""

    def unfreeze():
        return cached.At(lambda model: kf.unfreeze(model), epoch=0, batch=2)

    cache = kf.PrefixCache(auto=False, verbose=0, look_ahead=4)
    plain = cached.fit(BUILD, arrays(), unfreeze(), batch_size=4, epochs=2)
    ahead = cached.fit(BUILD, arrays(), unfreeze(), cache, batch_size=4, epochs=2)
    cached.assert_same(ahead, plain, exact=False)


class OnItsOwn(keras.callbacks.Callback):
    """Trains on, or evaluates, a batch of its own in the middle of an epoch."""

    def __init__(self, method):
        super().__init__()
        self.method, self.found = method, []

    def on_train_batch_end(self, batch, logs=None):
        x, y = cached.images(4)
        if batch == 1 and self.method == "train_on_batch":
            self.found.append(self.model.train_on_batch(x * 2, y))

    def on_test_batch_end(self, batch, logs=None):
        x, y = cached.images(4)
        if batch == 1 and not self.found and self.method != "train_on_batch":
            self.found.append(None)  # not in the evaluation that it begins
            arguments = {} if self.method == "test_on_batch" else {"verbose": 0, "batch_size": 4}
            self.found[0] = getattr(self.model, self.method)(x * 2, y, **arguments)


@pytest.mark.at_commit("evaluate")
@pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch", "evaluate"])
def test_a_callback_has_batches_of_its_own(method):
    outcomes = []
    for look_ahead in (1, 4):
        cache, own = kf.PrefixCache(auto=False, verbose=0, look_ahead=look_ahead), OnItsOwn(method)
        settings = {"validation_data": arrays(), "validation_batch_size": 4}
        settings |= {"batch_size": 4, "epochs": 2, "shuffle": False}
        outcome = cached.fit(BUILD, arrays(), own, cache, **settings)
        values = [*outcome.weights, *outcome.history.values(), *own.found]
        outcomes.append([np.asarray(value) for value in values])
    for got, wanted in zip(*outcomes, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_samples_that_are_not_repeated_are_noticed(sizes):
    class Augmented(Reshuffled):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + np.random.default_rng().normal(size=x.shape).astype("float32"), y

    cache = kf.PrefixCache(auto=False, verbose=0, look_ahead=3)
    cached.fit(BUILD, Augmented(), cache, epochs=4)
    assert cache.statistics.hits == 0
    assert sizes.count(12) <= 4


def test_kept_features_are_computed_together(tmp_path, sizes):
    for computed in (20, 0):
        cache = kf.PrefixCache(directory=tmp_path, keep=True, auto=False, verbose=0, look_ahead=3)
        cached.fit(BUILD, arrays(), cache, epochs=2, batch_size=4)
        assert cache.statistics.misses == computed
    assert 12 in sizes


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), ("3", TypeError), (True, TypeError)])
def test_arguments(value, error):
    with pytest.raises(error, match=r"PrefixCache\(look_ahead=...\) must be"):
        kf.PrefixCache(look_ahead=value)


def of_lengths():
    """Return batches of texts that are padded to different lengths, and one of no texts."""
    import tensorflow as tf

    def batches():
        for n, length in enumerate((5, 5, 7, 5, 5, 9)):
            rng, rows = np.random.default_rng(n), 0 if n == 4 else 4
            yield rng.normal(size=(rows, length, 2)).astype("float32"), rng.integers(0, 3, rows)

    shapes = tf.TensorSpec((None, None, 2), "float32"), tf.TensorSpec((None,), "int64")
    data = tf.data.Dataset.from_generator(batches, output_signature=shapes)
    return data.apply(tf.data.experimental.assert_cardinality(6))


def test_batches_of_several_lengths_and_an_empty_one(sizes, monkeypatch):
    def texts():
        inputs = keras.Input((None, 2))
        x = layers.Dense(4, activation="relu", name="conv")(inputs)
        x = layers.GlobalAveragePooling1D(name="pool")(x)
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    monkeypatch.setitem(globals(), "BUILD", cached.frozen(texts, layers=["conv"]))
    both(of_lengths, shuffle=False)
    assert max(sizes) == 8  # the next of the same length, of those that are ahead
