"""Rows by key: what is put comes back, in memory and in files."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

from keras_freeze.features import store as feature_store
from keras_freeze.features.store import Budget, RowStore

DTYPES = ["float32", "float16", "int64", "bool", "uint8"]


@given(
    parts=st.lists(
        st.tuples(st.sampled_from(DTYPES), arrays.array_shapes(min_dims=0, max_dims=3, max_side=4)),
        min_size=1,
        max_size=3,
    ),
    rows=st.integers(1, 9),
    limit=st.sampled_from([0, 50, None]),
    seed=st.integers(0, 9),
)
def test_what_is_put_comes_back(parts, rows, limit, seed):
    rng = np.random.default_rng(seed)
    values = [(rng.normal(size=(rows, *shape)) * 9).astype(dtype) for dtype, shape in parts]
    store = RowStore(Budget(limit))
    half = rows // 2
    keys = [f"key {n}" for n in range(rows)]
    store.put(keys[:half], [v[:half] for v in values])
    store.put(keys, values)
    assert len(store) == rows
    assert store.nbytes == sum(v.nbytes for v in values)
    order = rng.permutation(rows)
    found = store.get([keys[n] for n in order])
    for value, back in zip(values, found, strict=True):
        assert back.dtype == value.dtype
        np.testing.assert_array_equal(back, value[order])
    assert store.is_on_disk == (limit == 0 or (limit == 50 and store.nbytes > 50))
    store.clear()
    assert (len(store), store.nbytes, store.get(keys)) == (0, 0, None)


def test_many_blocks(monkeypatch):
    monkeypatch.setattr(feature_store, "BLOCK_BYTES", 100)
    store, values = RowStore(Budget(250)), np.arange(100, dtype="float64").reshape(50, 2)
    store.put(range(50), [values])
    assert store.is_on_disk
    np.testing.assert_array_equal(store.get(range(49, -1, -1))[0], values[::-1])


def test_rows_of_different_shape_are_not_stacked():
    store = RowStore()
    store.put([1, 2], [np.zeros((2, 3))])
    store.put([3], [np.zeros((1, 4))])
    assert store.hits([1, 3, 4]) == 2
    assert store.get([1, 3]) is None
    assert store.get([3])[0].shape == (1, 4)


def test_the_first_value_of_a_key_stays():
    store = RowStore()
    store.put(["a", "a"], [np.array([1.0, 2.0])])
    assert store.get(["a"])[0] == [1.0]


def test_a_file_that_can_not_be_written(tmp_path):
    with pytest.raises(OSError, match="missing"):
        RowStore(Budget(0), tmp_path / "missing").put(["a"], [np.zeros((1, 2))])


def test_by_default_a_quarter_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(feature_store, "free_memory", lambda: 400)
    store = RowStore()
    store.put(["a"], [np.zeros((1, 2))])
    assert store.budget.max_bytes == 100
    assert feature_store.free_memory() == 400


def test_stores_share_a_budget_and_release_it():
    budget = Budget(100)
    stores = [RowStore(budget), RowStore(budget)]
    for store in stores:
        store.put(range(10), [np.zeros((10, 1))])
    assert [store.is_on_disk for store in stores] == [False, True]
    stores[0].clear()
    third = RowStore(budget)
    third.put(range(10), [np.zeros((10, 1))])
    assert not third.is_on_disk


def test_free_memory_is_a_size():
    assert 2**20 < feature_store.free_memory() < 2**50


def test_rows_of_no_width_on_disk(tmp_path):
    store = RowStore(Budget(0), tmp_path)
    store.put(["a", "b"], [np.zeros((2, 0), "float32")])
    assert store.get(["b", "a"])[0].shape == (2, 0)
