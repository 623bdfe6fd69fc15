"""Samples have the same key if, and only if, they are the same."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from keras_freeze.prefix_cache.batches import Batch, UnreadableBatchError, keys_of

DTYPES = ["float32", "float16", "int64", "bool", "uint8"]


@given(
    rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=8),
    dtype=st.sampled_from(DTYPES),
)
def test_rows_have_the_same_key_exactly_if_they_are_the_same(rows, dtype):
    first = np.array(rows).astype(dtype)
    both = [first, first[:, :1].astype("float32")]
    for x in (first, both, {"a": both[1], "b": both[0]}):
        keys = keys_of(x)
        assert [[a == b for a in keys] for b in keys] == [[a == b for a in rows] for b in rows]
        assert {len(key) for key in keys} == {16}


def test_the_bytes_alone_are_not_enough():
    zeros = np.zeros((1, 4), "float32")
    others = [zeros.reshape(1, 2, 2), zeros.view("int32"), zeros[:, :2]]
    assert keys_of(zeros)[0] not in [keys_of(other)[0] for other in others]


def test_which_input_is_missing_counts():
    x = np.ones((1, 2))
    assert keys_of([x, None]) != keys_of([None, x])


def test_a_view_has_the_key_of_a_copy():
    x = np.arange(24.0).reshape(4, 6)
    assert keys_of(x[::-1, ::2]) == keys_of(x[::-1, ::2].copy())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.float32(1.0), "not arrays with a row for each sample"),
        (np.array(["a", {}], dtype=object), "not arrays with a row for each sample"),
        ([np.zeros((2, 1)), np.zeros((3, 1))], "different numbers of rows"),
        ([None], "not arrays"),
    ],
)
def test_batches_that_can_not_be_read(x, message):
    with pytest.raises(UnreadableBatchError, match=message):
        keys_of(x)


def test_the_size_of_all_batches_counts():
    x = np.ones((2, 3))
    assert keys_of(x, 2) == keys_of(x, 2) != keys_of(x)


def test_a_batch_of_some_samples():
    batch = Batch({"a": np.arange(6).reshape(3, 2), "b": None}, "test")
    picked = batch.picked([2, 0])
    assert np.asarray(picked.x["a"]).tolist() == [[4, 5], [0, 1]]
    assert (picked.kind, picked.rows, picked.x["b"]) == ("test", 2, None)
    assert batch.keys == keys_of(batch.x)
