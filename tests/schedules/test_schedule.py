"""Schedules are pure: which phase an epoch is in, what is frozen, at which rates."""

import copy
import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_freeze import policies, schedules
from keras_freeze.schedules import (
    AfterEpochs,
    FreezeSchedule,
    Phase,
    even_starts,
    multipliers,
    progress,
    thaw_plan,
)

NAMES = ["block1", "block2", "block3", "head"]


# even_starts

EVEN = {
    "an epoch a group": (4, 4, (0, 1, 2, 3)),
    "two epochs a group": (6, 12, (0, 2, 4, 6, 8, 10)),
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


# thaw_plan

PLANS = {
    "names and lists": (
        {0: "head", 4: "block3", 8: ["block2", "block1"]},
        {0: ("block1", "block2", "block3"), 4: ("block1", "block2"), 8: ()},
    ),
    "never named, never thawed": (
        {0: "head", 2: ["block2"]},
        {0: ("block1", "block2", "block3"), 2: ("block1", "block3")},
    ),
    "in any order of epochs": (
        {5: "block3", 0: "head"},
        {0: ("block1", "block2", "block3"), 5: ("block1", "block2")},
    ),
    "all at once": ({0: NAMES}, {0: ()}),
    "nothing at first": (
        {0: [], 1: "head"},
        {0: ("block1", "block2", "block3", "head"), 1: ("block1", "block2", "block3")},
    ),
}


@pytest.mark.parametrize("case", PLANS)
def test_thaw_plan(case):
    plan, expected = PLANS[case]
    frozen = thaw_plan(plan, NAMES)
    assert frozen == expected
    assert list(frozen) == sorted(frozen)


def test_in_a_plan_head_means_the_last_group():
    assert thaw_plan({0: "head"}, ["low", "fc"]) == {0: ("low",)}
    with pytest.raises(ValueError, match="must name each group once"):
        thaw_plan({0: "head", 1: "fc"}, ["low", "fc"])


@given(st.permutations(NAMES), st.lists(st.integers(0, 30), min_size=4, max_size=4, unique=True))
def test_a_plan_only_ever_thaws(order, epochs):
    plan = dict(zip(epochs, order, strict=True))
    frozen = thaw_plan(plan, NAMES)
    sets = [set(names) for _, names in sorted(frozen.items())]
    assert all(later < earlier for earlier, later in itertools.pairwise(sets))
    assert sets[-1] == set()


# multipliers

RATES = {
    "none": (None, [1, 1, 1, 1]),
    "factor": (2.0, [1 / 8, 1 / 4, 1 / 2, 1]),
    "factor of one": (1, [1, 1, 1, 1]),
    "mapping": ({"block1": 0.1, "block3": 2}, [0.1, 1, 2, 1]),
    "empty mapping": ({}, [1, 1, 1, 1]),
    "default": ("default", [schedules.DEFAULT_RATES**-n for n in (3, 2, 1, 0)]),
}


@pytest.mark.parametrize("case", RATES)
def test_multipliers(case):
    rates, expected = RATES[case]
    found = multipliers(rates, NAMES)
    assert list(found) == NAMES
    assert list(found.values()) == pytest.approx(expected)


def test_in_rates_head_means_the_last_group():
    assert multipliers({"head": 3.0}, ["low", "fc"]) == {"low": 1.0, "fc": 3.0}


# Phase and FreezeSchedule


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [
        (None, policies.FreezeGroups(0)),
        ((), policies.FreezeGroups(0)),
        ([], policies.FreezeGroups(0)),
        (0, policies.FreezeGroups(0)),
        (2, policies.FreezeGroups(2)),
        ("block1", policies.FreezeGroups("block1")),
        (["block1", "block2"], policies.FreezeGroups(["block1", "block2"])),
        (policies.FreezeFirst(3), policies.FreezeFirst(3)),
    ],
    ids=repr,
)
def test_a_phase_as_policy(frozen, expected):
    assert Phase(frozen).policy() == expected


def test_a_phase_takes_a_callable_and_a_division_into_groups():
    def is_bias(variable, layer):
        return variable.name == "bias"

    assert Phase(is_bias).policy() == policies.FreezeWhere(is_bias)
    groups = {"low": "low", "top": "top"}
    assert Phase("low").policy(groups) == policies.FreezeGroups("low", groups)


def test_a_schedule_by_epochs_sorts_its_phases_and_wraps_what_is_none():
    schedule = FreezeSchedule({4: "block1", 0: Phase(2, rates=2.6), 8: None})
    assert schedule.starts() == (0, 4, 8)
    assert schedule.phases == (
        Phase(2, rates=2.6, until=4),
        Phase("block1", until=AfterEpochs(4)),
        Phase(None),
    )


def index_at(schedule, epoch):
    return progress.progress_at(schedule, epoch, steps_per_epoch=None).index


def test_which_phase_an_epoch_belongs_to():
    schedule = FreezeSchedule({2: "block1", 5: None})
    assert schedule.start == 2
    assert [index_at(schedule, epoch) for epoch in range(7)] == [-1, -1, 0, 0, 0, 1, 1]
    assert progress.progress_at(schedule, 1, None).phase is None
    assert progress.progress_at(schedule, 100, None).phase == Phase(None)


@given(st.dictionaries(st.integers(0, 50), st.integers(0, 5), min_size=1), st.integers(0, 60))
def test_a_phase_lasts_until_the_next_begins(phases, epoch):
    schedule = FreezeSchedule(phases)
    begun = [start for start in phases if start <= epoch]
    expected = phases[max(begun)] if begun else None
    phase = progress.progress_at(schedule, epoch, None).phase
    assert (None if phase is None else phase.frozen) == expected
    assert schedule.starts() == tuple(sorted(phases))


VALUES = {
    "phase": Phase(["block1"], rates={"head": 2.0}, batch_norm="follow"),
    "schedule": FreezeSchedule({0: 2, 3: policies.FreezeFirst(1), 6: None}),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize(
    "clone",
    [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_equals_the_original(name, clone):
    twin = clone(VALUES[name])
    assert twin == VALUES[name]
    assert repr(twin) == repr(VALUES[name])


def test_the_representation_is_the_call():
    scope = {**vars(schedules), **vars(policies)}
    for value in VALUES.values():
        assert eval(repr(value), scope) == value


def test_a_schedule_keeps_no_hold_on_the_mapping_it_was_given():
    phases = {0: "block1"}
    schedule = FreezeSchedule(phases)
    phases[3] = None
    assert schedule.starts() == (0,)
    assert phases == {0: "block1", 3: None}
