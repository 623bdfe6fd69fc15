"""Rows that stay on the device are those that a store on the host would return."""

import itertools

import keras
import numpy as np
import pytest

from keras_freeze.features import Budget, DeviceStore, RowStore

pytestmark = pytest.mark.backend
DTYPES = ["float32", "bfloat16", "int32", "bool"]


def store(max_bytes=2**20):
    return DeviceStore(Budget(max_bytes), RowStore())


def on_host(tensors):
    return [np.asarray(keras.ops.convert_to_numpy(tensor)) for tensor in tensors]


def rows_of(keys, dtypes=("float32", "int32")):
    """Return tensors of two columns and of one, whose rows can be told by their keys."""
    numbers = np.array([[key, -key] for key in keys], "float32")
    tensors = (numbers, numbers[:, :1])
    return [keras.ops.cast(t, dtype) for t, dtype in zip(tensors, dtypes, strict=True)]


@pytest.mark.parametrize("rows_on_device", [0, 3, 17, 1000])
def test_it_equals_a_store_on_the_host(rows_on_device):
    rng = np.random.default_rng(rows_on_device)
    device, host = store(12 * rows_on_device), RowStore()
    for _ in range(120):
        keys = rng.integers(0, 60, rng.integers(1, 9)).tolist()
        assert device.hits(keys) == host.hits(keys)
        found, expected = device.get(keys), host.get(keys)
        if expected is None:
            assert found is None
            device.put(keys, rows_of(keys))
            host.put(keys, on_host(rows_of(keys)))
        else:
            for one, other in zip(on_host(found), expected, strict=True):
                np.testing.assert_array_equal(one, other)
        assert (len(device), device.nbytes) == (len(host), host.nbytes)
    assert device.budget.reserved == 12 * min(rows_on_device, len(host))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_stay_also_beyond_the_device(dtype):
    width = {"float32": 4, "bfloat16": 2, "int32": 4, "bool": 1}[dtype]
    kept = store(2 * 3 * width)  # two of three rows
    tensors = rows_of([1, 0, 2], (dtype, dtype))
    kept.put("abc", tensors)
    found = kept.get("cab")
    for one, other in zip(found, tensors, strict=True):
        assert one.dtype == other.dtype
        expected = keras.ops.take(other, [2, 0, 1], axis=0)
        np.testing.assert_array_equal(*on_host([one, expected]))


def test_rows_of_another_shape_are_kept_on_the_host():
    kept = store()
    kept.put("ab", [keras.ops.ones((2, 3))])
    kept.put("c", [keras.ops.ones((1, 4))])
    assert on_host(kept.get("c"))[0].shape == (1, 4)
    assert kept.get("ac") is None
    assert kept.hits("abc") == 3


def test_rows_of_another_dtype_are_kept_on_the_host():
    kept = store()
    kept.put("ab", [keras.ops.ones((2, 3))])
    kept.put("c", [keras.ops.ones((1, 3), "int32")])
    assert on_host(kept.get("ab"))[0].dtype == "float32"
    assert on_host(kept.get("c"))[0].dtype == "int32"


def test_blocks_are_few_and_each_is_large():
    kept = store()
    for first in range(0, 512, 8):
        keys = list(range(first, first + 8))
        kept.put(keys, rows_of(keys))
        if first % 64 == 0:
            kept.get(keys)
    kept.get([0])
    sizes = [block[0].shape[0] for block in kept._blocks]
    assert sum(sizes) == 512
    assert all(one >= 2 * other for one, other in itertools.pairwise(sizes))


def test_memory_is_released():
    kept = store(24)
    kept.put("abc", rows_of([1, 2, 3]))
    assert kept.budget.reserved == 24
    kept.withdraw()
    assert (len(kept), kept.nbytes, kept.budget.reserved) == (0, 0, 0)
    assert kept.get("a") is None
    kept.put("a", [keras.ops.ones((1, 2, 2))])  # of another shape than before
    assert kept.budget.reserved == 16
