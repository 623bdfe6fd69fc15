"""What counts as the same result of the same computation, and how much is computed to tell."""

import time

import numpy as np
import pytest

from keras_freeze.prefix_cache.audit import Audit, is_close, is_own
from keras_freeze.prefix_cache.batches import Batch
from keras_freeze.prefix_cache.feature_store import RowStore

ONE = np.linspace(-1, 1, 5, dtype="float32")


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        (ONE, ONE, True),
        (ONE * np.float32(1 + 1e-6), ONE, True),
        (ONE * np.float32(1.01), ONE, False),
        (ONE[:4], ONE, False),
        (np.arange(3), np.arange(3), True),
        (np.arange(3), np.arange(3) + 1, False),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0 + 1e-15]), True),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.1]), False),
        (np.array([np.inf, 1.0]), np.array([np.inf, 2.0]), False),
        (np.array([np.inf]), np.array([-np.inf]), False),
        (np.zeros(0), np.zeros(0), True),
    ],
)
def test_up_to_the_order_of_sums(new, old, expected):
    assert is_close(new, old) is expected


class Halved:
    """A stand-in for a `Prefix`: halves samples, and notes the batches that it gets."""

    def __init__(self, first_s=0.0, one_size=True, compute=lambda x: x / 2):
        self.first_s = first_s
        self.batches = []
        self._one_size = one_size
        self._compute = compute

    def is_of_one_size(self, batch):
        return self._one_size

    def __call__(self, batch):
        x = np.asarray(batch.x)
        self.batches.append(x[:, 0].tolist())
        return [self._compute(x)]


BATCH = Batch(np.arange(4, dtype="float32")[:, None])
HALVES = [BATCH.x / 2]


@pytest.mark.parametrize(
    ("one_size", "computed"), [(True, [3.0, 2.0, 3.0, 2.0]), (False, [3.0, 2.0])]
)
def test_samples_without_their_neighbours(one_size, computed):
    prefix = Halved(one_size=one_size)
    assert is_own(prefix, BATCH, HALVES)
    assert prefix.batches == [computed]


@pytest.mark.parametrize("one_size", [True, False])
@pytest.mark.parametrize(
    "mixing", [lambda x: x - x.mean(0), lambda x: x[::-1], lambda x: np.cumsum(x, 0)]
)
def test_samples_that_mix_are_noticed(mixing, one_size):
    prefix = Halved(one_size=one_size, compute=mixing)
    assert not is_own(prefix, BATCH, [mixing(BATCH.x)])


class TestAudit:
    def test_whole_batches_until_another_function_would_have_been_traced(self, monkeypatch):
        prefix = Halved(first_s=0.06)
        # Each batch takes 0.02 s.
        monkeypatch.setattr(time, "perf_counter", lambda: 0.02 * len(prefix.batches))
        audit = Audit(prefix)
        assert all(audit.passes(BATCH, HALVES, batch_s=0.01, store=RowStore()) for _ in range(5))
        assert [len(batch) for batch in prefix.batches] == [4, 4, 2, 2, 2]

    @pytest.mark.parametrize(("first_s", "one_size"), [(0.01, True), (9.0, False)])
    def test_a_few_samples_where_that_costs_no_more(self, first_s, one_size):
        prefix = Halved(first_s, one_size)
        assert Audit(prefix).passes(BATCH, HALVES, batch_s=0.01, store=RowStore())
        assert prefix.batches == [[3.0, 2.0]]

    @pytest.mark.parametrize("first_s", [0.0, 9.0])
    def test_what_is_outdated_does_not_pass(self, first_s):
        assert not Audit(Halved(first_s)).passes(
            BATCH, [BATCH.x / 2.1], batch_s=0.01, store=RowStore()
        )
