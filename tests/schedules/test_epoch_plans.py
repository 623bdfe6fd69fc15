"""Which groups unfreeze in which epoch."""

import itertools

import pytest
from hypothesis import given, strategies as st

from keras_freeze import schedules
from keras_freeze.schedules import even_starts, unfreeze_plan

NAMES = ["block1", "block2", "block3", "head"]

EVEN = {
    "an epoch per group": (4, 4, (0, 1, 2, 3)),
    "two epochs per group": (6, 12, (0, 2, 4, 6, 8, 10)),
    "not divisible": (3, 10, (0, 3, 6)),
    "fewer epochs": (6, 4, (0, 1, 1, 2, 2, 3)),
    "two epochs": (5, 2, (0, 1, 1, 1, 1)),
    "one epoch": (3, 1, (0, 0, 0)),
    "one group": (1, 5, (0,)),
}


@pytest.mark.parametrize("case", EVEN)
def test_even_starts(case):
    groups, epochs, expected = EVEN[case]
    assert even_starts(groups, epochs) == expected


@given(st.integers(1, 40), st.integers(1, 200))
def test_even_starts_spread_evenly(groups, epochs):
    starts = even_starts(groups, epochs)
    assert len(starts) == groups
    assert starts[0] == 0
    assert list(starts) == sorted(starts)
    assert starts[-1] < epochs
    if epochs > 1:
        assert 0 not in starts[1:]  # the head has an epoch to itself
    if epochs >= groups:
        ends = [*starts[1:], epochs]
        lengths = [end - start for start, end in zip(starts, ends, strict=True)]
        assert min(lengths) >= 1
        assert max(lengths) - min(lengths) <= 1


# unfreeze_plan

PLANS = {
    "names and lists": (
        {0: "head", 4: "block3", 8: ["block2", "block1"]},
        {0: ("block1", "block2", "block3"), 4: ("block1", "block2"), 8: ()},
    ),
    "never named, never unfrozen": (
        {0: "head", 2: ["block2"]},
        {0: ("block1", "block2", "block3"), 2: ("block1", "block3")},
    ),
    "in any order of epochs": (
        {5: "block3", 0: "head"},
        {0: ("block1", "block2", "block3"), 5: ("block1", "block2")},
    ),
    "all at once": ({0: NAMES}, {0: ()}),
    "a pattern": ({0: "head", 3: "block[23]"}, {0: ("block1", "block2", "block3"), 3: ("block1",)}),
    "the rest": (
        {0: "head", 2: ["block2"], 3: "rest"},
        {0: NAMES[:3], 2: ("block1", "block3"), 3: ()},
    ),
    "the rest before its end": (
        {0: "head", 2: "rest", 3: "block1"},
        {0: NAMES[:3], 2: ("block1",), 3: ()},
    ),
    "the rest in a list": ({0: ["head", "rest"], 1: "block1"}, {0: ("block1",), 1: ()}),
    "nothing at first": (
        {0: [], 1: "head"},
        {0: ("block1", "block2", "block3", "head"), 1: ("block1", "block2", "block3")},
    ),
}


@pytest.mark.parametrize("case", PLANS)
def test_unfreeze_plan(case):
    plan, expected = PLANS[case]
    frozen = unfreeze_plan(plan, NAMES)
    assert frozen == {epoch: tuple(names) for epoch, names in expected.items()}
    assert list(frozen) == sorted(frozen)


def test_a_group_may_be_called_rest():
    assert unfreeze_plan({0: "head", 1: "rest"}, ["low", "rest", "head"]) == {
        0: ("low", "rest"),
        1: ("low",),
    }


@pytest.mark.parametrize("plan", [{0: NAMES, 1: "rest"}, {0: "rest", 1: "rest"}])
def test_a_rest_that_is_none(plan):
    with pytest.raises(ValueError, match="have 'rest' once, where groups are left"):
        unfreeze_plan(plan, NAMES)


def test_in_a_plan_head_means_the_last_group():
    assert unfreeze_plan({0: "head"}, ["low", "fc"]) == {0: ("low",)}
    with pytest.raises(ValueError, match="must name each group once"):
        unfreeze_plan({0: "head", 1: "fc"}, ["low", "fc"])


@given(st.permutations(NAMES), st.lists(st.integers(0, 30), min_size=4, max_size=4, unique=True))
def test_a_plan_only_ever_unfreezes(order, epochs):
    plan = dict(zip(epochs, order, strict=True))
    frozen = unfreeze_plan(plan, NAMES)
    sets = [set(names) for _, names in sorted(frozen.items())]
    assert all(later < earlier for earlier, later in itertools.pairwise(sets))
    assert sets[-1] == set()


def test_the_old_name_still_works():
    with pytest.warns(DeprecationWarning, match="thaw_plan is now unfreeze_plan.*0.3"):
        assert schedules.thaw_plan is unfreeze_plan
    with pytest.raises(AttributeError, match="has no attribute 'thaw'"):
        _ = schedules.thaw


def test_errors_name_the_owner():
    with pytest.raises(ValueError, match=r"^GradualUnfreeze\(schedule=\.\.\.\) must name each"):
        unfreeze_plan({0: ["head", "head"]}, NAMES)
    with pytest.raises(ValueError, match=r"^Own\(schedule=\.\.\.\) must name layer groups"):
        unfreeze_plan({0: "x"}, NAMES, owner="Own")
