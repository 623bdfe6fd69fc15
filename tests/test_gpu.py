"""What a graphics processor does otherwise than a host: run these where there is one.

`pytest -m gpu tests/test_gpu.py`, with any backend. A GPU multiplies float32 in another order for
other sizes of batches, and by default in TF32, which is why nothing here is compared to the bit but
what is copied.
"""

import cached
import hashes
import keras
import numpy as np
import pytest
from cached import frozen, images

import keras_freeze as kf
from keras_freeze.features import Budget, DeviceStore, RowStore
from keras_freeze.keras_internals.tensors import is_on_device, is_on_host
from keras_freeze.prefix_cache.batches import keys_of
from keras_freeze.prefix_cache.device_keys import digests
from keras_freeze.prefix_cache.weight_watch import Watch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*flags of single variables"),
]

CACHES = {
    "host": lambda: kf.PrefixCache(auto=False, verbose=0),
    "device": lambda: kf.PrefixCache(2**20, on_device=True, auto=False, verbose=0),
    "ahead": lambda: kf.PrefixCache(look_ahead=2, auto=False, verbose=0),
}


@pytest.fixture(autouse=True)
def full_float32():
    """Multiply float32 as float32, so that results can be compared."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    elif backend == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    else:
        import jax

        jax.config.update("jax_default_matmul_precision", "float32")


def test_models_are_on_the_gpu(batch_norm):
    assert not is_on_host(keras.ops.convert_to_tensor(batch_norm().weights[0].value))


@pytest.mark.parametrize("cache", CACHES)
def test_a_cut_gives_the_same(any_model, data_for, cache):
    build = frozen(any_model, len(kf.layer_groups(any_model())) - 1)
    data = data_for(any_model(), rows=20)
    cached.compare(build, data, cache=CACHES[cache](), validate=True, exact=False)


@pytest.mark.parametrize("cache", CACHES)
def test_layers_unfreeze(batch_norm, cache):
    plain, with_cache = (
        cached.fit(batch_norm, images(), kf.GradualUnfreeze(2, cache=one, verbose=0), epochs=6)
        for one in (False, CACHES[cache]())
    )
    cached.assert_same(with_cache, plain, exact=False)


def test_rows_stay_on_the_device():
    store = DeviceStore(Budget(2**20), RowStore())
    rows = keras.ops.reshape(keras.ops.arange(12.0), (4, 3))
    store.put("abcd", [rows])
    (found,) = store.get("dab")
    assert not is_on_host(found)
    expected = np.arange(12.0).reshape(4, 3)[[3, 0, 1]]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), expected)


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="tf.data gives batches on the host"
)
def test_a_batch_is_hashed_where_it_is():
    rows = np.random.default_rng(0).normal(size=(3, 5000)).astype("float32")
    held = keras.ops.convert_to_tensor(rows)
    assert is_on_device(held)
    assert digests(held).tolist() == [hashes.by_definition(row.tobytes()) for row in rows]
    assert keys_of(held) != keys_of(rows)


def test_a_write_to_a_weight_is_seen(plain):
    model = plain()
    watch = Watch(model.weights)
    assert watch.changed(thorough=True) == []
    model.weights[2].assign(model.weights[2] * 2.0)
    assert watch.changed(thorough=True) == [2]


def test_a_weight_that_changes_in_a_fit_clears_what_is_kept(batch_norm, capsys):
    cache = kf.PrefixCache(auto=False)
    changes = cached.At(cached.scale_kernel)
    plain = cached.fit(frozen(batch_norm, 1), images(), cached.At(cached.scale_kernel), epochs=4)
    outcome = cached.fit(frozen(batch_norm, 1), images(), changes, cache, epochs=4)
    cached.assert_same(outcome, plain, exact=False)
    assert "block1_conv/kernel" in capsys.readouterr().out
