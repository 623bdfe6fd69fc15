"""Repeated samples are expected after whole epochs, and not after others' evaluations."""

import numpy as np
import pytest

from keras_freeze.features.store import RowStore
from keras_freeze.prefix_cache.reuse_tracker import ReuseTracker


@pytest.fixture
def tracker():
    return ReuseTracker(RowStore(), passes=1, enough=2)


def batch(tracker, *samples):
    found = tracker.look_up(samples)
    if found is None:
        tracker.keep(samples, [np.ones((len(samples), 2))])
    lacks_repeats = tracker.lacks_repeats
    tracker.count()
    return lacks_repeats


def epoch(tracker, *batches):
    tracker.begin()
    return [batch(tracker, *samples) for samples in batches]


def test_samples_that_are_repeated(tracker):
    for _ in range(3):
        assert epoch(tracker, "ab", "cd", "ef") == [False] * 3


def test_samples_that_are_not_repeated(tracker):
    assert epoch(tracker, "ab", "cd") == [False, False]
    assert epoch(tracker, "gh", "ij") == [False, True]


def test_an_epoch_that_was_cut_late_does_not_count(tracker):
    tracker.begin()
    tracker.count()  # a batch before the cut
    tracker.interrupt()
    batch(tracker, "ab")
    assert epoch(tracker, "cd", "ef") == [False, False]
    assert epoch(tracker, "gh", "ij") == [False, True]


def test_an_epoch_that_was_cut_at_its_beginning_counts(tracker):
    tracker.begin()
    tracker.interrupt()
    batch(tracker, "ab")
    assert epoch(tracker, "cd", "ef") == [False, True]


def test_samples_that_were_repeated_are_expected_to_be_again():
    tracker = ReuseTracker(RowStore(), passes=2, enough=1)
    for _ in range(4):
        epoch(tracker, "ab")
    assert epoch(tracker, "cd") == [False]
    assert epoch(tracker, "ab") == [False]
    assert epoch(tracker, "ef") == [False]
    assert epoch(tracker, "gh") == [False]
    assert epoch(tracker, "ij") == [True]


def test_what_is_cleared_or_stopped_is_gone(tracker):
    epoch(tracker, "ab")
    tracker.clear()
    assert tracker.look_up("ab") is None and tracker.is_active
    tracker.stop()
    assert not tracker.is_active and len(tracker.store) == 0
