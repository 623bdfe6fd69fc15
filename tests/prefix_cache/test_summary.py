"""The lines say what was decided and why, and not the same twice."""

import types

import pytest

from keras_freeze.cuts.reasons import NoCut, Reason
from keras_freeze.prefix_cache.summary import Messages, Statistics


@pytest.fixture
def lines():
    return []


@pytest.fixture
def messages(lines):
    return Messages(lines.append)


FRONTIER = types.SimpleNamespace(name="pool", share=0.609, ended_by=None)
ENDED = types.SimpleNamespace(
    name="pool", share=0.5, ended_by=NoCut(Reason.RANDOM, "Dropout 'a' is stochastic")
)


@pytest.mark.parametrize(
    ("frontier", "steps", "inference", "line"),
    [
        (
            FRONTIER,
            3,
            False,
            "cache: up to 12 samples at pool, 384.00 B; skips 60 % of the forward pass.",
        ),
        (
            ENDED,
            None,
            True,
            "cache: samples at pool; skips 50 % of the forward pass. It ends there because Dropout "
            "'a' is stochastic. Frozen layers run in inference mode, without dropout.",
        ),
    ],
)
def test_a_cut(frontier, steps, inference, line, messages, lines):
    messages.cut(frontier, 32.0, rows=4, steps=steps, inference=inference)
    assert lines == [line]


def test_reasons(messages, lines):
    repeats = NoCut(Reason.NO_REPEATS, "no sample was repeated")
    messages.not_used(NoCut(Reason.NOT_KNOWN, "Custom 'mine' is not known"))
    messages.disabled("train", repeats)
    messages.disabled("test", repeats)
    messages.cleared("low/kernel")
    assert lines == [
        "cache: not used: Custom 'mine' is not known.",
        "cache: caching is disabled for training: no sample was repeated.",
        "cache: caching is disabled for validation: no sample was repeated.",
        "cache: cleared: weights before the cut have changed (low/kernel).",
    ]


@pytest.mark.parametrize("reason", [Reason.TRAINS, Reason.NOTHING_FROZEN, Reason.SHORT_PHASE])
def test_what_is_expected_is_not_printed(reason, messages, lines):
    messages.not_used(NoCut(reason, "something"))
    assert lines == []


def test_no_line_twice_in_a_row(messages, lines):
    for name in ("a", "a", "b", "a"):
        messages.cleared(name)
    assert len(lines) == 3


def test_that_little_work_is_frozen_is_printed_once(messages, lines):
    messages.not_used(NoCut(Reason.LITTLE_WORK, "block1"))
    messages.cleared("a")
    messages.not_used(NoCut(Reason.LITTLE_WORK, "block2"))
    assert len(lines) == 2


def test_statistics():
    statistics = Statistics(
        hits=30, misses=10, nbytes=2048, compute_s=2.0, computed=10, lookup_s=1.0
    )
    text = "75 % of 40 samples were looked up; at most 2.00 KB kept; saved about 5.0 s"
    assert str(statistics) == text
    slow = Statistics(hits=1, compute_s=1.0, computed=10, lookup_s=1.0)
    assert str(slow).endswith("took about 0.9 s more than it saved: train without it")
    even = Statistics(hits=10, compute_s=1.0, computed=10, lookup_s=1.04)
    assert str(even).endswith("saved about 0.0 s")
    assert str(Statistics(hits=30)).endswith("kept")  # by an earlier fit
