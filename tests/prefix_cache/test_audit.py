"""What counts as the same result of the same computation, and how much is computed to tell."""

import numpy as np
import pytest

from keras_freeze.features.store import RowStore
from keras_freeze.prefix_cache.audit import Audit, is_close
from keras_freeze.prefix_cache.batches import Batch

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

    def __init__(self, one_size=True, compute=lambda x: x / 2, traced=True):
        self.batches = []
        self._one_size = one_size
        self._compute = compute
        self._traced = traced

    def is_of_one_size(self, batch):
        return self._one_size

    def is_to_be_traced(self, batch):
        return not self._traced

    def __call__(self, batch):
        x = np.asarray(batch.x)
        self.batches.append(x[:, 0].tolist())
        return [self._compute(x)]

    def without_tracing(self, batch):
        assert not self._traced
        return self(batch)


BATCH = Batch(np.arange(4, dtype="float32")[:, None])
HALVES = [BATCH.x / 2]


@pytest.mark.parametrize(
    ("one_size", "traced", "first", "later"),
    [
        (True, True, [3.0, 2.0, 3.0, 2.0], [0.0, 1.0, 2.0, 3.0]),
        (False, True, [3.0, 2.0], [3.0, 2.0]),
        (True, False, [3.0, 2.0], [0.0, 1.0, 2.0, 3.0]),
    ],
)
def test_samples_without_their_neighbours_then_what_costs_least(one_size, traced, first, later):
    prefix = Halved(one_size, traced=traced)
    audit = Audit(prefix)
    assert all(audit.passes(BATCH, HALVES, store=RowStore()) for _ in range(3))
    assert prefix.batches == [first, later, later]


@pytest.mark.parametrize("one_size", [True, False])
@pytest.mark.parametrize(
    "mixing", [lambda x: x - x.mean(0), lambda x: x[::-1], lambda x: np.cumsum(x, 0)]
)
def test_samples_that_mix_are_noticed(mixing, one_size):
    audit = Audit(Halved(one_size, mixing))
    assert not audit.passes(BATCH, [mixing(BATCH.x)], store=RowStore())
    assert not audit.is_passed


@pytest.mark.parametrize("rows", [BATCH.x[:1], BATCH.x[[1, 1, 1, 1]], BATCH.x[:2]], ids=len)
def test_samples_that_can_not_matter_to_each_other_tell_nothing(rows):
    prefix = Halved()
    audit = Audit(prefix)
    assert audit.passes(Batch(rows), [rows / 2], store=RowStore())
    assert audit.is_passed and not audit.is_telling
    audit.passes(BATCH, HALVES, store=RowStore())
    assert audit.is_telling
    assert prefix.batches[-1] == [3.0, 2.0, 3.0, 2.0]  # not the batch as it came


def test_a_layer_that_takes_no_other_number_of_samples_does_not_pass():
    def of_four(x):
        return x.reshape(4, 1)

    assert not Audit(Halved(False, of_four)).passes(BATCH, [BATCH.x], store=RowStore())


def test_what_is_outdated_does_not_pass():
    prefix = Halved()
    audit = Audit(prefix)
    assert not audit.passes(BATCH, [BATCH.x / 2.1], store=RowStore())
    assert audit.passes(BATCH, HALVES, store=RowStore())
    assert not audit.passes(BATCH, [BATCH.x / 2.1], store=RowStore())
