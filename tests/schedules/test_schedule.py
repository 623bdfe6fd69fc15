"""A schedule is a value: its phases, when they begin, and how it looks."""

import copy
import pickle
from typing import ClassVar

import keras
import pytest
from html_cells import html_cells
from hypothesis import given, strategies as st

import keras_freeze as kf
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


class TestTheRest:
    """One word in the plans of both callbacks, in schedules and in their files."""

    PLAN: ClassVar = {0: ["rest", "deep"], 2: "rest", 3: None}

    @pytest.fixture
    def model(self):
        inputs = x = keras.Input((4,))
        for name in ("low", "middle", "deep", "new"):
            x = keras.layers.Dense(4, name=name)(x)
        return keras.Model(inputs, x)

    @staticmethod
    def frozen(schedule, model):
        rows = schedule.preview(model, 5).rows
        return [row.trainable_params // 20 for row in rows]

    def test_what_a_later_phase_names_is_in_it(self, model):
        schedule = FreezeSchedule({0: "rest", 2: ["low"], 4: None})
        assert self.frozen(schedule, model) == [1, 3, 4]

    def test_it_is_all_but_the_last_that_was_not_named(self, model):
        schedule = FreezeSchedule(self.PLAN)
        assert self.frozen(schedule, model) == [1, 2, 4]
        picked = schedule.phases[1].policy().select(model)
        assert picked == policies.FreezeGroups(["low", "middle"]).select(model)

    def test_it_survives_a_file_and_a_copy(self, model, tmp_path):
        schedule = FreezeSchedule(self.PLAN)
        schedule.to_yaml(tmp_path / "plan.yaml")
        assert "frozen: rest" in (tmp_path / "plan.yaml").read_text()
        for copied in (FreezeSchedule.from_yaml(tmp_path / "plan.yaml"), copy.deepcopy(schedule)):
            assert copied == schedule
            assert self.frozen(copied, model) == [1, 2, 4]

    def test_callbacks_of_both_kinds_mean_the_same(self, model):
        freezes = kf.FreezeScheduler(self.PLAN)
        unfreezes = kf.GradualUnfreeze({0: "head", 2: "deep", 3: "rest"}, rates=None)
        assert self.frozen(freezes, model) == self.frozen(unfreezes, model) == [1, 2, 4]

    def test_patterns_and_divisions_of_ones_own(self, model):
        groups = {"a": ["low"], "b": ["middle"], "c": ["deep"], "top": ["new"]}
        callback = kf.FreezeScheduler({0: ["rest", "[c]"], 1: "rest"}, groups=groups)
        assert self.frozen(callback, model) == [1, 2]

    def test_a_group_may_be_called_so(self, model):
        groups = {"rest": ["low"], "above": ["middle", "deep"], "top": ["new"]}
        assert self.frozen(kf.FreezeScheduler({0: "rest"}, groups=groups), model) == [3]

    @pytest.mark.parametrize("plan", [{0: ["low", "middle", "deep", "rest"]}, {0: ["rest"] * 2}])
    def test_where_nothing_is_left_it_is_refused(self, model, plan):
        with pytest.raises(ValueError, match="have 'rest' once, where groups are left"):
            kf.FreezeScheduler(plan).preview(model, 3)
