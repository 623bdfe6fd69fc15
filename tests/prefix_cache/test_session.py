"""What changes, repeats or turns out wrong in the course of a fit is noticed in time."""

import warnings

import cached
import keras
import numpy as np
import pytest
from cached import BACKEND, At, frozen, images, scale_kernel, vectors
from keras import layers

import keras_freeze as kf
from keras_freeze.cuts import determinism, determinism_rules
from keras_freeze.features.store import RowStore
from keras_freeze.prefix_cache import feature_lookup
from keras_freeze.prefix_cache.batches import Batch
from keras_freeze.schedules import AfterSteps, FreezeSchedule, Phase

slow = pytest.mark.slow


class Augmented(keras.utils.PyDataset):
    """Other noise on each image in each epoch."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y, self.epoch = x, y, 0

    def __len__(self):
        return len(self.x) // 8

    def __getitem__(self, index):
        rows = slice(8 * index, 8 * index + 8)
        noise = np.random.default_rng([self.epoch, index]).normal(size=self.x[rows].shape)
        return (self.x[rows] + noise).astype("float32"), self.y[rows]

    def on_epoch_end(self):
        self.epoch += 1


@pytest.mark.backend
def test_random_augmentation_is_noticed_in_the_second_epoch(batch_norm, capsys):
    x, y = images(rows=64)

    def run(*callbacks):
        arguments = {"epochs": 3, "validation_data": (x, y), "shuffle": False}
        return cached.fit(frozen(batch_norm, 1), Augmented(x, y), *callbacks, **arguments)

    cache = kf.PrefixCache(auto=False)
    cached.assert_same(run(cache), run())
    printed = capsys.readouterr().out
    said = "caching is disabled for training: no sample of the previous epoch was repeated"
    assert printed.count(said) == 1
    # Validation is still cached: 64 samples twice.
    assert cache.statistics.hits == 128
    assert cache.statistics.misses == 64 * 4


# Transitions


def scheduled(build, schedule, data=None, **settings):
    """Fit a schedule with and without a cache, and return the statistics."""
    cache = kf.PrefixCache(auto=False, verbose=0)
    plain, with_cache = (
        cached.fit(build, data or images(), schedule(given), **settings) for given in (False, cache)
    )
    cached.assert_same(with_cache, plain)
    return cache.statistics


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_transitions_in_the_middle_of_an_epoch(batch_norm):
    def schedule(cache):
        phases = [Phase(2, until=AfterSteps(4)), Phase(1, until=AfterSteps(7)), Phase(0)]
        return kf.FreezeScheduler(FreezeSchedule(phases), cache=cache, verbose=0)

    assert scheduled(batch_norm, schedule, epochs=5).hits


@pytest.mark.filterwarnings("ignore:.*flags of single variables")
@pytest.mark.parametrize(
    "mode", ["train", pytest.param("follow", marks=slow), pytest.param("statistics", marks=slow)]
)
def test_modes_of_batch_norm(mode, batch_norm):
    def schedule(cache):
        return kf.FreezeScheduler({0: 2, 2: 1}, batch_norm=mode, cache=cache, verbose=0)

    assert scheduled(batch_norm, schedule, epochs=4).hits


def test_freezing_late_in_an_epoch_does_not_look_like_augmentation():
    def schedule(cache):
        first, then = Phase(until=AfterSteps(5)), Phase(frozen=1)
        return kf.FreezeScheduler(FreezeSchedule([first, then]), cache=cache, verbose=0)

    settings = {"epochs": 4, "shuffle": False, "batch_size": 4}
    statistics = scheduled(cached.dense_stack, schedule, vectors(rows=32), **settings)
    # Of the first epoch 3 batches are cut, and of the others all 8.
    assert statistics.hits == 32 * 2 + 12


# Changes by hand


def load_others(model):
    model.set_weights([w * 0.9 for w in model.get_weights()])


def unfreeze(model):
    kf.unfreeze(model, groups=1)


def lower_precision(model):
    model.get_layer("block1_conv").dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    kf.recompile(model, force=True)


def changed(batch_norm, action, epoch, batch):
    build = frozen(batch_norm, layers=["block1_conv", "block1_bn"])
    validate = action is scale_kernel
    cached.compare(
        build, images(), lambda: At(action, epoch, batch), epochs=epoch + 2, validate=validate
    )


@pytest.mark.backend
@pytest.mark.parametrize(
    "action", [scale_kernel, unfreeze, pytest.param(lower_precision, marks=slow)]
)
@pytest.mark.slow_on_jax
def test_what_changes_the_prefix_within_an_epoch_is_noticed(action, batch_norm):
    changed(batch_norm, action, epoch=1, batch=1)


@pytest.mark.slow
@pytest.mark.backend
@pytest.mark.parametrize("action", [scale_kernel, load_others, unfreeze, lower_precision])
def test_what_changes_the_prefix_between_epochs_is_noticed(action, batch_norm):
    changed(batch_norm, action, epoch=2, batch=None)


@pytest.mark.slow
def test_a_prefix_that_keeps_changing_is_not_cached(batch_norm, capsys):
    class Restless(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            scale_kernel(self.model)

    cached.compare(
        frozen(batch_norm, 1),
        images(),
        Restless,
        cache=kf.PrefixCache(auto=False),
        expect_hits=False,
    )
    printed = capsys.readouterr().out
    assert "not used: weights before the cut keep changing (block1_conv/kernel)" in printed
    assert printed.count("cleared: weights before the cut have changed") == 1


class Teacher(keras.Model):
    """Changes a weight of the frozen part in each step."""

    def train_step(self, state, data):
        logs, state = super().train_step(state, data)
        others = [1.01 * v if v.shape == (3, 3, 2, 4) else v for v in state[1]]
        return logs, (state[0], others, *state[2:])


@pytest.mark.backend
@pytest.mark.skipif(BACKEND != "jax", reason="other backends show where a weight is")
def test_a_step_that_writes_to_what_is_frozen(batch_norm):
    def build():
        model = batch_norm()
        return Teacher(model.inputs, model.outputs)

    cached.compare(frozen(build, 1), images(), expect_hits=False)


# A layer wrongly assumed to be deterministic is found out


def test_a_layer_wrongly_assumed_deterministic_is_found_before_it_is_used(monkeypatch):
    monkeypatch.setitem(determinism_rules.LAYERS, "Dropout", determinism_rules.pure)

    def build():
        inputs = keras.Input((4,))
        x = layers.Dense(16, name="low")(layers.Dropout(0.5, seed=1)(inputs))
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    cache = kf.PrefixCache(auto=False)
    model = frozen(build, layers=["low"])()
    model.compile("sgd", "sparse_categorical_crossentropy")
    said = "depends on other samples or on chance.*None of what was kept has been used"
    with pytest.warns(UserWarning, match=said):
        model.fit(*vectors(), epochs=3, verbose=0, callbacks=[cache])
    assert cache.statistics.hits == 0


def scaled_rows(monkeypatch, good):
    """Let a store return wrong rows after so many calls that return good ones."""
    get, calls = RowStore.get, []

    def other(self, keys):
        rows = get(self, keys)
        if rows is not None:
            calls.append(keys)
        return rows and [row * (1.01 if len(calls) > good else 1.0) for row in rows]

    monkeypatch.setattr(RowStore, "get", other)
    return calls


@pytest.mark.parametrize(
    ("good", "hits"), [(0, 0), (6, 40)], ids=["the first epoch", "a later epoch"]
)
@pytest.mark.at_commit("a later epoch")
def test_a_failed_audit_drops_all(good, hits, batch_norm, monkeypatch):
    # 3 batches each to train and to validate are looked up in an epoch.
    calls = scaled_rows(monkeypatch, good)
    monkeypatch.setattr(feature_lookup, "AUDIT_SHARE", 100.0)  # all are audited
    build, data = frozen(batch_norm, 1), images()
    with pytest.warns(UserWarning, match="for a sample differs from an earlier one"):
        statistics = cached.compare(
            build, data, expect_hits=hits > 0, plain="head of batch_norm", validate=True
        )
    assert len(calls) == good + 1  # nothing is looked up any more, in validation neither
    assert statistics.hits == hits
    assert statistics.nbytes


class Audits:
    """A plan whose audits take half a second, on a clock of its own."""

    def __init__(self):
        self.now, self.count, self.audit, self.draw = 0.0, 0, self, None
        self.is_passed, self.is_telling = False, True

    def perf_counter(self):
        return self.now

    def passes(self, batch, rows, store):
        self.count += 1
        self.now += 0.5
        self.is_passed = True
        return True


class Centred(layers.Layer):
    """Depends on all samples of a batch."""

    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


class OneFirst(keras.utils.PyDataset):
    """The same sample alone as the first batch, then the others in another order each time."""

    def __init__(self):
        super().__init__()
        self.x, self.y = vectors(17)
        self.epoch = 0
        self.on_epoch_end()

    def on_epoch_end(self):
        self.order = 1 + np.random.default_rng(self.epoch).permutation(16)
        self.epoch += 1

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = self.order[8 * index - 8 : 8 * index] if index else [0]
        return self.x[rows], self.y[rows]


def test_a_sample_alone_does_not_prove_that_samples_do_not_matter_to_each_other(monkeypatch):
    judged = determinism._judged
    taken_for_pure = lambda op, how: None if isinstance(op, Centred) else judged(op, how)  # noqa: E731
    monkeypatch.setattr(determinism, "_judged", taken_for_pure)

    def build():
        inputs = keras.Input((4,))
        x = Centred()(layers.Dense(6, activation="tanh", name="low")(inputs))
        model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))
        kf.freeze(model, layers=["low"])
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    with pytest.warns(UserWarning, match="for a sample differs from an earlier one"):
        build().fit(OneFirst(), epochs=3, verbose=0, callbacks=[kf.PrefixCache(auto=False)])


def test_audits_take_no_more_than_their_share(monkeypatch):
    plan = Audits()
    monkeypatch.setattr(feature_lookup, "time", plan)
    lookup = feature_lookup.FeatureLookup(RowStore, steps=4)
    batch, counts = Batch(np.zeros((2, 3))), []
    for _ in range(200):
        assert lookup.passes_audit(plan, batch, [])
        counts.append(plan.count)
        plan.now += 1.0
    assert counts[:48] == [1] * 48  # the first at once, and the second as it has its share
    assert plan.count == 8
    assert plan.count * 0.5 <= 0.02 * plan.now


# Data that end early, or are empty


@cached.on_tensorflow  # elsewhere plain Keras fails on them
def test_a_batch_of_no_rows_passes_through():
    class Sometimes(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            x, y = vectors()
            rows = slice(0, 0) if index == 2 else slice(5 * index, 5 * index + 5)
            return x[rows], y[rows]

    build = frozen(cached.dense_stack, layers=["low"])
    statistics = cached.compare(build, Sometimes(), shuffle=False)
    assert (statistics.misses, statistics.hits) == (15, 30)


@pytest.mark.backend
@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.slow_on_jax
@pytest.mark.at_commit("True")
def test_data_of_unknown_length_take_as_many_steps(validate, batch_norm):
    import tensorflow as tf

    def data():
        rows = tf.data.Dataset.from_tensor_slices(images(rows=24))
        return rows.filter(lambda x, y: y < 3).batch(8)

    def fit(*callbacks):
        keras.utils.set_random_seed(7)
        model = frozen(batch_norm, 1)()
        decay = keras.optimizers.schedules.ExponentialDecay(0.05, 4, 0.5)
        model.compile(keras.optimizers.Adam(decay), "sparse_categorical_crossentropy")
        settings = {"validation_data": data()} if validate else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Keras, that the data end
            model.fit(data(), epochs=3, verbose=0, callbacks=list(callbacks), **settings)
        weights = [keras.ops.convert_to_numpy(v) for v in model.weights]
        return int(keras.ops.convert_to_numpy(model.optimizer.iterations)), weights

    cache = kf.PrefixCache(auto=False, verbose=0)
    (steps, weights), (cached_steps, cached_weights) = fit(), fit(cache)
    assert cached_steps == steps and cache.statistics.hits >= 48
    for one, other in zip(weights, cached_weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


# Validation, where training can't be cut as deep


def behind(layer):
    """Two frozen layers with another one between them, and a head that trains."""

    def build():
        inputs = keras.Input((4,))
        x = layers.Dense(6, activation="relu", name="low")(inputs)
        x = layers.Dense(5, name="middle")(layer()(x))
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    return frozen(build, layers=["low", "middle"])


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_validation_is_cut_behind_a_dropout(capsys):
    cache = kf.PrefixCache(auto=False)
    build = behind(lambda: layers.Dropout(0.5, seed=1))
    statistics = cached.compare(build, vectors(), cache=cache, validate=True)
    said = capsys.readouterr().out
    assert "cache: up to 24 samples at low" in said
    assert "cache: in validation, samples at middle" in said
    assert (statistics.misses, statistics.hits) == (40, 80)


@pytest.mark.backend
def test_validation_alone_is_cut(capsys):
    def build():
        inputs = keras.Input((4,))
        x = layers.Dense(6, name="low")(layers.GaussianNoise(0.1, seed=1)(inputs))
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    cache = kf.PrefixCache(auto=False)
    low = frozen(build, layers=["low"])
    statistics = cached.compare(low, vectors(), cache=cache, validate=True)
    assert (statistics.misses, statistics.hits) == (20, 40)
    said = capsys.readouterr().out
    assert "disabled for training: GaussianNoise 'gaussian_noise" in said


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_statistics_that_training_moves_end_a_cut_of_validation_too():
    def build():
        model = behind(lambda: layers.BatchNormalization(name="norm"))()
        model.get_layer("norm").trainable = True
        for weight in model.get_layer("norm").trainable_weights:
            weight.trainable = False
        return model

    statistics = cached.compare(build, vectors(), validate=True)
    assert statistics.hits == 80  # of low, in both


def test_a_validation_that_is_cut_deeper_follows_a_transition():
    build = behind(lambda: layers.Dropout(0.5, seed=1))
    unfreeze = cached.At(lambda model: kf.unfreeze(model, layers=["middle"]), epoch=2)
    statistics = cached.compare(build, vectors(), lambda: unfreeze, validate=True, epochs=4)
    assert statistics.hits >= 60 + 40


@pytest.mark.backend
@pytest.mark.skipif(BACKEND == "jax", reason="a fit on JAX takes flags with the next trace")
def test_a_flag_inside_a_nested_model_is_noticed_where_nothing_is_traced():
    def build():
        inner = keras.Input((4,))
        x = layers.BatchNormalization(center=False, scale=False, name="norm")(inner)
        inside = keras.Model(inner, layers.Dense(5, name="low")(x), name="inside")
        inside.trainable = False
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Dense(3, activation="softmax")(inside(inputs)))

    def unfreeze(model):
        model.get_layer("inside").get_layer("norm").trainable = True

    options = {"run_eagerly": True}
    at = [lambda: At(unfreeze, epoch=2)]
    statistics = cached.compare(build, vectors(), *at, compile_options=options, epochs=4)
    assert statistics.hits == 20
