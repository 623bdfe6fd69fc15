"""Random frozen models with the prefix cache and without; `make fuzz` tries a thousand and more."""

import dataclasses

import fuzz_cache
import keras
import pytest

from keras_freeze.features.store import RowStore

pytestmark = [
    pytest.mark.backend,
    pytest.mark.filterwarnings("ignore:Your input ran out of data"),
    pytest.mark.filterwarnings("ignore:.*shuffle=True. was passed"),
    pytest.mark.filterwarnings("ignore:.*does not support masking"),
]
COUNT = {"tensorflow": 200, "torch": 100, "jax": 50}[keras.backend.backend()]
#: One of ten with a traced step, which takes most of the time.
TRACED = 10


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, COUNT, 10))
def test_ten_cases(first):
    found = {}
    for number in range(first, first + 10):
        case = fuzz_cache.draw(number)
        found[number], _ = fuzz_cache.differences(case, eager=number % TRACED != 0)
    assert {n: words for n, words in found.items() if words} == {}


PLAIN = fuzz_cache.Case("Conv2D", ("dense", "operation"), True, 2, False, "reshuffled", 5)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    ("changes", "hits"),
    [
        ({}, 88),
        ({"cache": "bfloat16"}, 88),
        ({"low": "LSTM, dropout"}, 0),  # draws masks in validation too
        ({"low": "ConvLSTM1D", "gradual": True}, 44),  # could not be unfrozen
    ],
)
@pytest.mark.at_commit("changes1-88")
def test_a_case(changes, hits):
    case = dataclasses.replace(PLAIN, **changes)
    assert fuzz_cache.differences(case) == ([], hits)


@pytest.mark.slow_on_jax
@pytest.mark.at_commit("plain")
@pytest.mark.parametrize(
    ("cache", "factor", "seen"),
    [("plain", 1.0001, {"features", "weights"}), ("bfloat16", 1.03, {"features"})],
    ids=["plain", "bfloat16"],
)
def test_the_comparison_sees_a_difference(cache, factor, seen, monkeypatch):
    get = RowStore.get

    def other(self, keys):
        rows = get(self, keys)
        return rows and [row * row.dtype.type(factor) for row in rows]

    monkeypatch.setattr(RowStore, "get", other)
    found, _ = fuzz_cache.differences(dataclasses.replace(PLAIN, cache=cache))
    assert seen <= {words.split()[0] for words in found}
