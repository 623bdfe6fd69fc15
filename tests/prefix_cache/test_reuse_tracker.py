"""Whether samples come again is told by whole epochs, and not by others' evaluations."""

import numpy as np
import pytest

from keras_freeze.prefix_cache.feature_store import RowStore
from keras_freeze.prefix_cache.reuse_tracker import Kept


@pytest.fixture
def kept():
    return Kept(RowStore(), passes=1, enough=2)


def batch(kept, *samples):
    found = kept.look_up(samples)
    if found is None:
        kept.keep(samples, [np.ones((len(samples), 2))])
    is_in_vain = kept.is_in_vain
    kept.count()
    return is_in_vain


def epoch(kept, *batches):
    kept.begin()
    return [batch(kept, *samples) for samples in batches]


def test_samples_that_come_again(kept):
    for _ in range(3):
        assert epoch(kept, "ab", "cd", "ef") == [False] * 3


def test_samples_that_do_not(kept):
    assert epoch(kept, "ab", "cd") == [False, False]
    assert epoch(kept, "gh", "ij") == [False, True]


def test_an_epoch_that_was_cut_late_does_not_count(kept):
    kept.begin()
    kept.count()  # a batch before the cut
    kept.break_off()
    batch(kept, "ab")
    assert epoch(kept, "cd", "ef") == [False, False]
    assert epoch(kept, "gh", "ij") == [False, True]


def test_an_epoch_that_was_cut_at_its_beginning_counts(kept):
    kept.begin()
    kept.break_off()
    batch(kept, "ab")
    assert epoch(kept, "cd", "ef") == [False, True]


def test_samples_that_have_come_again_are_expected_to_go_on():
    kept = Kept(RowStore(), passes=2, enough=1)
    for _ in range(4):
        epoch(kept, "ab")
    assert epoch(kept, "cd") == [False]
    assert epoch(kept, "ab") == [False]
    assert epoch(kept, "ef") == [False]
    assert epoch(kept, "gh") == [False]
    assert epoch(kept, "ij") == [True]


def test_what_is_cleared_or_stopped_is_gone(kept):
    epoch(kept, "ab")
    kept.clear()
    assert kept.look_up("ab") is None and kept.repeats
    kept.stop()
    assert not kept.repeats and len(kept.store) == 0
