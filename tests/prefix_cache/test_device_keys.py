"""Hashes that a device computes are what their definition says, and differ where rows do."""

import cached
import keras
import numpy as np
import pytest
from cached import frozen, images
from hashes import by_definition

import keras_freeze as kf
from keras_freeze.keras_internals import tensors
from keras_freeze.prefix_cache import batches, feature_lookup, wrapped_steps
from keras_freeze.prefix_cache.batches import Batch, keys_of
from keras_freeze.prefix_cache.device_keys import BLOCK, digests

pytestmark = pytest.mark.backend


@pytest.fixture
def as_on_a_device(monkeypatch):
    """Take the backend's tensors for a device's, arrays for the host's."""
    monkeypatch.setattr(batches, "is_on_device", keras.ops.is_tensor)


@pytest.mark.parametrize("width", [1, BLOCK // 4, BLOCK // 4 + 1, 12_000])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "uint8", "bool"])
def test_a_hash_is_what_is_defined(dtype, width):
    values = np.random.default_rng(1).integers(0, 2**8, (3, width)).astype("float32")
    x = keras.ops.cast(keras.ops.convert_to_tensor(values), dtype)
    as_bytes = keras.ops.cast(x, "uint8") if dtype == "bool" else x
    rows = keras.ops.convert_to_numpy(keras.ops.view(as_bytes, "uint8"))
    assert digests(x).tolist() == [by_definition(row.tolist()) for row in rows]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
def test_a_hash_is_the_same_with_64_bits():
    import jax

    x = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(3, 5000)), "float32")
    before = digests(x)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(digests(x), before)


def test_a_bit_anywhere_makes_another_hash():
    row = np.random.default_rng(0).normal(size=5000).astype("float32")
    rows = np.stack([row] * 64)
    bits = rows.view(np.uint32)
    for n in range(1, 64):
        bits[n, n * 79] ^= np.uint32(1) << np.uint32(n % 32)
    found = digests(keras.ops.convert_to_tensor(rows))
    assert len({row.tobytes() for row in found}) == 64
    # Each of the sums differs: one stays the same with a probability of 2^-25 at most.
    assert all((found[n].view(np.uint32) != found[0].view(np.uint32)).all() for n in range(1, 64))


def test_samples_on_a_device_have_the_same_key_exactly_if_they_are_the_same(as_on_a_device):
    rows = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 1], [-0.0, 0, 1]], "float32")
    first = keras.ops.convert_to_tensor(rows)
    for x in (first, {"a": first, "b": rows}, [first, None], keras.ops.reshape(first, (4, 3, 1))):
        keys = keys_of(x)
        assert [keys.index(key) for key in keys] == [0, 1, 0, 3]
    assert len({keys_of(x)[0] for x in (first, first[:, :2], keras.ops.cast(first, "int32"))}) == 3
    # A sample of the host is another: it isn't known which bytes the other had.
    assert set(keys_of(first)).isdisjoint(keys_of(rows))


def test_rows_without_elements_are_read_on_the_host(as_on_a_device):
    x = np.zeros((2, 0), "float32")
    assert keys_of(keras.ops.convert_to_tensor(x)) == keys_of(x)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_fit_whose_samples_a_device_holds(on_device, batch_norm, as_on_a_device, monkeypatch):
    hashed, waited = [], []
    monkeypatch.setattr(batches, "digests", lambda x: hashed.append(x) or digests(x))
    monkeypatch.setattr(batches, "wait_for", waited.append)
    monkeypatch.setattr(feature_lookup, "wait_for", waited.append)
    cache = kf.PrefixCache(2**20, on_device=on_device, auto=False, verbose=0)
    # JAX on a processor gives a step arrays of NumPy.
    monkeypatch.setattr(
        wrapped_steps, "Batch", lambda x, *args, **of: Batch(keras.ops.array(x), *args, **of)
    )
    statistics = cached.compare(frozen(batch_norm, 2), images(), cache=cache, validate=True)
    assert statistics.hits > 0
    # For each batch of which features are kept; and where they stay on the device, for these.
    batch_count = (statistics.hits + statistics.misses) // 4
    assert len(hashed) >= batch_count // 2
    assert len(waited) > len(hashed) if on_device else len(waited) == len(hashed)


def test_the_time_of_the_step_before_is_not_that_of_a_lookup(monkeypatch, as_on_a_device):
    waited = []
    monkeypatch.setattr(batches, "wait_for", waited.append)
    held = keras.ops.ones((2, 3))
    Batch({"a": np.ones((2, 3)), "b": held, "c": held}).wait()
    assert len(waited) == 1 and waited[0] is held
    Batch(np.ones((2, 3))).wait()
    assert len(waited) == 1


def test_one_element_is_fetched_of_what_is_waited_for(monkeypatch):
    fetched = []
    monkeypatch.setattr(keras.ops, "convert_to_numpy", fetched.append)
    for shape in [(), (3,), (2, 4, 1)]:
        tensors.wait_for(keras.ops.ones(shape))
    assert [tuple(one.shape) for one in fetched] == [(), (1,), (1, 1, 1)]


def test_what_the_host_holds_is_on_no_device():
    held = [keras.ops.ones((2,)), np.ones(2), None, "text", [1.0]]
    assert not any(map(tensors.is_on_device, held))
