"""A schedule is a value: its phases, when they begin, and how it looks."""

import copy
import pickle

import pytest
from html_cells import html_cells
from hypothesis import given, strategies as st

from keras_freeze import policies, schedules
from keras_freeze.schedules import (
    AfterEpochs,
    AfterSteps,
    Cosine,
    FreezeSchedule,
    OnPlateau,
    Phase,
    gradual,
    progress,
)


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


LONG = gradual([f"block{n}" for n in range(14)])
MIXED = FreezeSchedule(
    [
        Phase(["low", "mid"], until=AfterSteps(100), rates=2.0),
        Phase("low", until=OnPlateau(), batch_norm="follow", curve=Cosine()),
        Phase(),
    ],
    start=2,
)


def test_the_representation_of_a_long_schedule_is_short():
    text = repr(LONG)
    assert len(text) < 400
    assert text.startswith("FreezeSchedule([Phase(frozen=('block0', ..., 'block12'), ")
    assert text.endswith(", ..., Phase(frozen=(), rates='default')])")
    assert repr(MIXED).endswith(", Phase(frozen=())], start=2)")


def test_the_html_form():
    assert html_cells(MIXED._repr_html_()) == [
        ["phase", "begins", "ends", "frozen", "settings"],
        ["0", "epoch 3", "after 100 steps", "low and mid", "rates: 2.0"],
        [
            "1",
            "after phase 0",
            "val_loss stalls for 3 epochs",
            "low",
            "batch_norm: follow, curve: Cosine(steps=None, floor=0.0)",
        ],
        ["2", "after phase 1", "with the fit", "nothing", ""],
    ]
    assert len(html_cells(LONG._repr_html_())) == 15
    assert "<b>" not in FreezeSchedule({0: "<b>"})._repr_html_()
