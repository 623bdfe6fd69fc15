"""A model that is spread over the devices of one process: each batch is, and its features are."""

import cached
import keras
import numpy as np
import pytest
from cached import frozen, images
from keras import layers

import keras_freeze as kf
from keras_freeze.cuts import Reason
from keras_freeze.keras_internals import processes
from keras_freeze.prefix_cache import replicas, session
from keras_freeze.prefix_cache.planning import reason_against_step
from keras_freeze.prefix_cache.session import CacheRun

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution")


def augmented():
    inputs = keras.Input((8, 8, 2))
    x = layers.RandomFlip(seed=1)(inputs)
    x = layers.Flatten()(layers.Conv2D(3, 3, name="low")(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))
    kf.freeze(model, layers=["low"])
    return model


@pytest.fixture
def data_parallel():
    distribution = keras.distribution.DataParallel(devices=keras.distribution.list_devices("cpu"))
    assert len(distribution.device_mesh.devices) == 2, "conftest sets up two"
    with distribution.scope():
        yield


@pytest.fixture
def model_parallel():
    """Each of two devices has half of the kernel of `block1_conv`."""
    devices = keras.distribution.list_devices("cpu")
    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], devices)
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*block1_conv/kernel"] = (None, None, None, "model")
    distribution = keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    with distribution.scope():
        yield


class TestReplicas:
    def test_rows_are_divided_and_joined(self, mirrored, plain):
        with mirrored.scope():
            model = plain()
        x = {"a": np.arange(10.0).reshape(5, 2), "b": None}
        spread = replicas.divided(model, x, (3, 2))
        local = mirrored.experimental_local_results(spread["a"])
        assert [rows.device[-5:] for rows in local] == ["CPU:0", "CPU:1"]
        np.testing.assert_array_equal(local[1], x["a"][3:])
        again, shares = replicas.joined(model, spread)
        assert shares == (3, 2) and again["b"] is None
        np.testing.assert_array_equal(again["a"], x["a"])

    def test_each_replica_computes_its_share(self, mirrored, plain):
        import tensorflow as tf

        def function(x):
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            return [x + 10.0 * tf.cast(number, x.dtype)]

        with mirrored.scope():
            model = plain()
        (found,) = replicas.on_replicas(model, function)((3, 2), np.zeros((5, 1)))
        np.testing.assert_array_equal(found[:, 0], [0, 0, 0, 10, 10])


class TestMirrored:
    """The whole model's loss is a mean over replicas, whose last bits a cut may change."""

    def compare(self, mirrored, build, data, **settings):
        with mirrored.scope():
            return cached.compare(build, data, exact=False, **settings)

    @pytest.mark.at_commit("nested")
    def test_a_cut_gives_the_same(self, mirrored, any_model, data_for):
        depth = len(kf.layer_groups(any_model())) - 1
        data = data_for(any_model(), rows=20)
        statistics = self.compare(mirrored, frozen(any_model, depth), data, validate=True)
        assert statistics.misses == 40

    @pytest.mark.parametrize("rows", [pytest.param(21, marks=pytest.mark.slow), 17])
    def test_shares_of_different_size_or_none(self, mirrored, plain, data_for, rows):
        # Convolutions fail on no rows, in plain Keras too.
        self.compare(mirrored, frozen(plain, 2), data_for(plain(), rows=rows), validate=True)

    @pytest.mark.slow
    def test_layers_unfreeze(self, mirrored, batch_norm):
        caches = [False, kf.PrefixCache(auto=False, verbose=0)]
        with mirrored.scope():
            plain, with_cache = (
                cached.fit(
                    batch_norm, images(), kf.GradualUnfreeze(2, cache=cache, verbose=0), epochs=6
                )
                for cache in caches
            )
        cached.assert_same(with_cache, plain, exact=False)
        assert caches[1].statistics.hits

    def test_rows_of_other_shapes_on_another_replica_are_left_alone(self, mirrored, capsys):
        import tensorflow as tf

        def build():
            inputs = keras.Input((None, 5))
            x = layers.GlobalAveragePooling1D()(layers.Dense(4, name="low")(inputs))
            return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

        def padded(_):
            rng = np.random.default_rng(0)
            lengths = (3, 3, 4, 5) * 3  # Keras builds with the first two
            batches = [rng.normal(size=(2, n, 5)).astype("float32") for n in lengths]
            shape = tf.TensorSpec((None, None, 5)), tf.TensorSpec((None,), tf.int64)
            each = [(x, np.array([0, 1])) for x in batches]
            return tf.data.Dataset.from_generator(lambda: iter(each), output_signature=shape)

        def fit(*callbacks):
            data = mirrored.distribute_datasets_from_function(padded)
            settings = {"steps_per_epoch": 2, "epochs": 2, "shuffle": False}
            return cached.fit(frozen(build, layers=["low"]), data, *callbacks, **settings)

        with mirrored.scope():
            cached.assert_same(fit(kf.PrefixCache(auto=False)), fit(), exact=False)
        assert "not used: the rows of one replica have another shape" in capsys.readouterr().out

    def test_features_go_to_their_replica_at_once(self, mirrored, batch_norm, monkeypatch):
        placed = []
        monkeypatch.setattr(session, "placed", placed.append)
        self.compare(mirrored, frozen(batch_norm, 1), images())
        assert not placed

    def test_views_are_left_alone(self, mirrored, capsys):
        with mirrored.scope():
            cached.fit(augmented, images(), kf.PrefixCache(views=2, auto=False), epochs=2)
        assert "views of a sample are not kept under a strategy" in capsys.readouterr().out

    @pytest.mark.slow
    def test_features_are_kept_for_another_fit(self, mirrored, batch_norm, tmp_path):
        for expected in (20, 0):
            cache = kf.PrefixCache(directory=tmp_path, keep=True, auto=False, verbose=0)
            statistics = self.compare(mirrored, frozen(batch_norm, 1), images(), cache=cache)
            assert statistics.misses == expected

    @pytest.mark.slow
    def test_features_of_several_batches_together(self, mirrored, batch_norm):
        cache = kf.PrefixCache(look_ahead=3, auto=False, verbose=0)
        self.compare(mirrored, frozen(batch_norm, 1), images(40), cache=cache)

    @pytest.mark.slow
    def test_data_that_reshuffle(self, mirrored, batch_norm):
        import tensorflow as tf

        def data():
            return tf.data.Dataset.from_tensor_slices(images()).shuffle(20, seed=3).batch(8)

        cache = kf.PrefixCache(auto=False, verbose=0)
        with mirrored.scope():
            build = frozen(batch_norm, 1)
            plain = cached.fit(build, data(), epochs=3, shuffle=False)
            with_cache = cached.fit(build, data(), cache, epochs=3, shuffle=False)
        cached.assert_same(with_cache, plain, exact=False)
        assert (cache.statistics.misses, cache.statistics.hits) == (20, 40)


@on_jax
@pytest.mark.backend
@pytest.mark.jax_only
class TestKerasDistribution:
    def test_a_cut_gives_the_same(self, any_model, data_for, data_parallel):
        depth = len(kf.layer_groups(any_model())) - 1
        data = data_for(any_model(), rows=16)
        statistics = cached.compare(frozen(any_model, depth), data, validate=True)
        # Rows of training are computed once; validation finds its own.
        assert statistics.misses == 32

    def test_with_layers_that_are_spread(self, batch_norm, model_parallel):
        model = frozen(batch_norm, 1)()
        kernel = model.get_layer("block1_conv").kernel.value
        assert kernel.addressable_shards[0].data.shape[-1] == kernel.shape[-1] // 2
        cached.compare(frozen(batch_norm, 1), images(rows=16), validate=True)

    def test_layers_unfreeze(self, batch_norm, data_parallel):
        cache = kf.PrefixCache(auto=False, verbose=0)
        plain, with_cache = (
            cached.fit(
                batch_norm, images(16), kf.GradualUnfreeze(2, cache=given, verbose=0), epochs=6
            )
            for given in (False, cache)
        )
        cached.assert_same(with_cache, plain)
        assert cache.statistics.hits

    def test_features_are_kept_for_another_fit(self, batch_norm, data_parallel, tmp_path):
        for expected in (16, 0):
            cache = kf.PrefixCache(directory=tmp_path, keep=True, auto=False, verbose=0)
            statistics = cached.compare(frozen(batch_norm, 1), images(16), cache=cache)
            assert statistics.misses == expected

    def test_views(self, data_parallel):
        cache = kf.PrefixCache(views=2, auto=False, verbose=0)
        cached.fit(augmented, images(16), cache, epochs=5)
        assert cache.statistics.hits == 3 * 16

    def test_features_lie_where_the_batch_does(self, batch_norm, data_parallel, monkeypatch):
        """Computed ones and those that are looked up, so that the step is compiled once."""
        shares = []

        def cut(run, batch, own=CacheRun.cut):
            plan, features = own(run, batch)
            shares.extend(len(s.data) for f in features for s in f.addressable_shards)
            return plan, features

        monkeypatch.setattr(CacheRun, "cut", cut)
        cache = kf.PrefixCache(auto=False, verbose=0)
        cached.fit(frozen(batch_norm, 1), images(16), cache, epochs=3)
        assert cache.statistics.hits == 32
        assert shares == [4] * 2 * 2 * 3


@pytest.mark.backend
def test_several_processes_are_left_alone(batch_norm, monkeypatch):
    model = frozen(batch_norm, 1)()
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert reason_against_step(model, "train", custom_step=False) is None
    monkeypatch.setattr(processes, "count", lambda: 2)
    no_cut = reason_against_step(model, "train", custom_step=False)
    assert no_cut.reason is Reason.UNSUPPORTED_STEP
    assert "each would have to cut the same steps" in no_cut.detail
