"""`PrefixCache` changes no number of a fit, on any kind of data and beside any callback."""

import cached
import keras
import numpy as np
import pytest
from cached import frozen, images, on_tensorflow, vectors
from keras import layers

import keras_freeze as kf
from keras_freeze.features import store as feature_store

pytestmark = pytest.mark.filterwarnings("ignore:.*flags of single variables")


@pytest.mark.backend
def test_the_head_alone(any_model, data_for):
    model = any_model()
    depth = len(kf.layer_groups(model)) - 1
    statistics = cached.compare(frozen(any_model, depth), data_for(model, rows=20), epochs=2)
    assert (statistics.misses, statistics.hits) == (20, 20)


def gradual(build, data):
    epochs = 2 * len(kf.layer_groups(build()))
    cache = kf.PrefixCache(auto=False, verbose=0)
    plain, with_cache = (
        cached.fit(build, data, kf.GradualUnfreeze(2, cache=given, verbose=0), epochs=epochs)
        for given in (False, cache)
    )
    cached.assert_same(with_cache, plain)
    assert cache.statistics.hits


def test_gradual_unfreezing(plain, data_for):
    gradual(plain, data_for(plain(), rows=20))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [20, 24], ids=["the last smaller", "batches of one size"])
def test_gradual_unfreezing_of_any_model(any_model, data_for, rows):
    gradual(any_model, data_for(any_model(), rows=rows))


# Data


def pipeline(kind):
    import tensorflow as tf

    x, y = images(rows=21)
    weights = np.linspace(0.5, 1.5, 21).astype("float32")
    parts = (x, y, weights) if kind == "weighted" else (x, y)
    data = tf.data.Dataset.from_tensor_slices(parts)
    if kind in ("shuffled", "repeated"):
        data = data.shuffle(21, seed=5)
    data = data.batch(8, drop_remainder=kind == "static").prefetch(1)
    return data.repeat() if kind == "repeated" else data


def fits(batch_norm, make_data, **settings):
    """Fit with and without a cache on data that are made again for each."""
    cache = kf.PrefixCache(auto=False, verbose=0)
    build = frozen(batch_norm, 1)
    outcomes = [
        cached.fit(build, make_data(), *given, **{"epochs": 3, "shuffle": False, **settings})
        for given in ([], [cache])
    ]
    cached.assert_same(*outcomes)
    return cache.statistics


@pytest.mark.parametrize(
    "kind",
    [
        "repeated",
        "static",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("batched", "shuffled", "weighted")),
    ],
)
def test_tf_data(kind, batch_norm):
    steps = {"steps_per_epoch": 3} if kind == "repeated" else {}
    assert fits(batch_norm, lambda: pipeline(kind), **steps).hits


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        x, y = images(rows=21)
        return x[8 * index : 8 * index + 8], y[8 * index : 8 * index + 8]


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_py_dataset(batch_norm):
    assert fits(batch_norm, Batches).hits == 42


@pytest.mark.slow
def test_a_generator(batch_norm):
    def batches():
        x, y = images()
        while True:
            for n in range(0, 20, 8):
                yield x[n : n + 8], y[n : n + 8]

    assert fits(batch_norm, batches, steps_per_epoch=3).hits == 40


def test_single_samples(batch_norm):
    cached.compare(frozen(batch_norm, 1), images(rows=5), batch_size=1)


@pytest.mark.parametrize(
    "settings",
    [
        {
            "sample_weight": np.linspace(0.1, 2.0, 20).astype("float32"),
            "validation_split": 0.25,
            "validation_freq": 2,
            "batch_size": 7,
        },
        pytest.param({"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}}, marks=pytest.mark.slow),
        pytest.param({"shuffle": False}, marks=pytest.mark.slow),
    ],
    ids=lambda settings: "-".join(settings),
)
def test_arguments_of_fit(settings, batch_norm):
    cached.compare(frozen(batch_norm, 1), images(), epochs=4, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int32", "float64"])
def test_inputs_of_another_dtype(dtype, batch_norm):
    x, y = images()
    data = (x * 40).astype(dtype), y
    cached.compare(frozen(batch_norm, 1), data)


def test_dictionaries_of_inputs():
    def build():
        a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
        shared = layers.Dense(5, name="shared")
        x = layers.Concatenate()([shared(a), shared(b)])
        return keras.Model({"a": a, "b": b}, layers.Dense(3, activation="softmax")(x))

    x, y = vectors()
    data = {"b": x[::-1], "a": x}, y
    cached.compare(frozen(build, layers=["shared"]), data)


# Other callbacks, and one cache in several fits


@pytest.mark.backend
@pytest.mark.skipif(cached.BACKEND == "torch", reason="torch runs one batch a step")
@pytest.mark.parametrize("executed", [2, 3, 32])
@pytest.mark.at_commit("3")
def test_several_batches_an_execution(executed, batch_norm):
    options = {"steps_per_execution": executed}
    build, data = frozen(batch_norm, 1), images(rows=28)
    statistics = cached.compare(build, data, compile_options=options, validate=True)
    assert statistics.hits == 2 * 2 * 28


@on_tensorflow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.slow
def test_several_batches_of_unknown_number_an_execution(batch_norm):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(images(rows=28))
    data = data.filter(lambda x, y: y < 2).batch(4)
    build, options = frozen(batch_norm, 1), {"steps_per_execution": 3}
    cached.compare(build, data, compile_options=options, exact=False, shuffle=False)


@pytest.mark.slow_on_jax
@pytest.mark.backend
@pytest.mark.slow
def test_beside_other_callbacks(batch_norm, tmp_path):
    def others():
        return [
            kf.FreezeGuard(every=2),
            keras.callbacks.ReduceLROnPlateau("loss", patience=1),
            keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True),
            keras.callbacks.ModelCheckpoint(tmp_path / "m.keras", save_best_only=True),
            kf.BackupAndRestore(tmp_path / "backup"),
        ]

    build, data = frozen(batch_norm, 1), images()
    settings = {"epochs": 4, "validate": True, "compile_options": {"optimizer": "adam"}}
    plain = cached.fit(build, data, *others(), **settings)
    cache = kf.PrefixCache(auto=False, verbose=0)
    (tmp_path / "m.keras").unlink()
    cached.assert_same(cached.fit(build, data, cache, *others(), **settings), plain)
    assert cache.statistics.hits
    keras.models.load_model(tmp_path / "m.keras")


@pytest.mark.backend
def test_one_cache_serves_the_fit_after_an_interrupted_one(batch_norm):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    build, data = frozen(batch_norm, 1), images()
    cache = kf.PrefixCache(auto=False, verbose=0)
    model = build()
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data, epochs=3, verbose=0, callbacks=[cache, Stop()])
    model.fit(*data, epochs=2, verbose=0, callbacks=[cache])
    assert (cache.statistics.misses, cache.statistics.hits) == (20, 20)
    assert not {"train_step", "make_train_function"} & set(vars(model))


def test_two_caches_in_one_fit(plain, data_for):
    model = plain()
    model.compile("sgd", "sparse_categorical_crossentropy")
    callbacks = [kf.GradualUnfreeze(cache=True, verbose=0), kf.PrefixCache(verbose=0)]
    with pytest.raises(ValueError, match=r"GradualUnfreeze\(cache=...\) must be left out beside"):
        model.fit(*data_for(model), verbose=0, callbacks=callbacks)


# In inference mode


def dropout_in_the_frozen_part():
    inputs = keras.Input((4,))
    x = layers.Dense(8, activation="relu", name="low")(inputs)
    x = layers.Dropout(0.4, seed=2)(x)
    x = layers.Dense(8, activation="relu", name="middle")(x)
    x = layers.Dropout(0.5, seed=3)(x)  # of the head
    outputs = layers.Dense(3, activation="softmax", name="head")(x)
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(scale=0.3, size=w.shape) for w in model.get_weights()])
    kf.freeze(model, layers=["low", "middle"])
    return model


def test_inference_mode_drops_nothing_in_the_frozen_part(capsys):
    def head():
        x = inputs = keras.Input((8,))
        x = layers.Dense(3, activation="softmax")(layers.Dropout(0.5, seed=3)(x))
        model = keras.Model(inputs, x)
        model.set_weights(dropout_in_the_frozen_part().get_weights()[-2:])
        return model

    settings = {"epochs": 3}
    cache = kf.PrefixCache(mode="inference")
    with_cache = cached.fit(dropout_in_the_frozen_part, vectors(), cache, **settings)
    model = dropout_in_the_frozen_part()
    x, y = vectors()
    features = keras.Model(model.inputs, model.layers[-3].output).predict(x, verbose=0)
    by_hand = cached.fit(head, (features, y), **settings)
    np.testing.assert_array_equal(with_cache.history["loss"], by_hand.history["loss"])
    assert cache.statistics.hits
    assert "Frozen layers run in inference mode" in capsys.readouterr().out


def test_inference_mode_that_can_not_be_had_is_an_error():
    def build():
        inputs = keras.Input((4,))
        x = layers.Dense(4, name="low")(cached.Custom(name="mine")(inputs))
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    cache = kf.PrefixCache(mode="inference")
    with pytest.raises(ValueError, match=r'mode="inference"\) must be able to cut.*mine'):
        cached.fit(frozen(build, layers=["low"]), vectors(), cache)


# Memory, and what is printed


def test_beyond_the_limit_features_go_to_files(batch_norm, tmp_path):
    cache = kf.PrefixCache(max_bytes=0, directory=tmp_path, auto=False, verbose=0)
    statistics = cached.compare(
        frozen(batch_norm, 1), images(), cache=cache, plain="head of batch_norm", validate=True
    )
    assert statistics.hits == 80
    assert not list(tmp_path.iterdir())


def test_where_files_can_not_be_written_training_continues(batch_norm, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_store, "_mapped", full)
    cache = kf.PrefixCache(max_bytes=0, directory=tmp_path, auto=False, verbose=0)
    with pytest.warns(UserWarning, match="caching is disabled, since features can't be"):
        statistics = cached.compare(
            frozen(batch_norm, 1),
            images(),
            cache=cache,
            expect_hits=False,
            plain="head of batch_norm",
            validate=True,
        )
    assert statistics.nbytes == 0


def test_what_is_printed(batch_norm, capsys):
    cache = kf.PrefixCache(auto=False)
    cached.fit(frozen(batch_norm, 1), images(), cache, epochs=3, validate=True)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("cache: up to 24 samples at block1_pool, ")
    assert last.startswith("cache: 67 % of 120 samples were looked up; at most ")


@on_tensorflow
def test_eager_steps(batch_norm):
    options = {"compile_options": {"run_eagerly": True}, "epochs": 2}
    cached.compare(frozen(batch_norm, 1), images(), **options)
