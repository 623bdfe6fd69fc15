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
from keras_freeze.prefix_cache.batches import placed
from keras_freeze.prefix_cache.planning import reason_against_step

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution")


@pytest.fixture
def data_parallel():
    distribution = keras.distribution.DataParallel(devices=keras.distribution.list_devices("cpu"))
    assert len(distribution.device_mesh.devices) == 2, "conftest sets up two"
    with distribution.scope():
        yield


@pytest.fixture
def model_parallel():
    """Each of two devices has half of the kernels of `low` and `block1_conv`."""
    devices = keras.distribution.list_devices("cpu")
    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], devices)
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*block1_conv/kernel"] = (None, None, None, "model")
    distribution = keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    with distribution.scope():
        yield


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
            assert statistics.computed == expected

    def test_views(self, data_parallel):
        def build():
            inputs = keras.Input((8, 8, 2))
            x = layers.RandomFlip(seed=1)(inputs)
            x = layers.Flatten()(layers.Conv2D(3, 3, name="low")(x))
            return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

        cache = kf.PrefixCache(views=2, auto=False, verbose=0)
        cached.fit(frozen(build, layers=["low"]), images(16), cache, epochs=5)
        assert cache.statistics.hits == 3 * 16

    def test_features_lie_where_the_batch_does(self, data_parallel):
        features = placed(np.zeros((8, 3), "float32"))
        assert [shard.data.shape for shard in features.addressable_shards] == [(4, 3), (4, 3)]


@pytest.mark.backend
def test_several_processes_are_left_alone(batch_norm, monkeypatch):
    model = frozen(batch_norm, 1)()
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert reason_against_step(model, "train", custom_step=False) is None
    monkeypatch.setattr(processes, "count", lambda: 2)
    no_cut = reason_against_step(model, "train", custom_step=False)
    assert no_cut.reason is Reason.UNSUPPORTED_STEP
    assert "each would have to cut the same steps" in no_cut.detail
