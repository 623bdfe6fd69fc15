import dataclasses

import live_statuses as statuses
import pytest

from keras_freeze.live import words
from keras_freeze.live.status import FitState, GroupState, GroupStatus, PhaseStatus, Status
from keras_freeze.schedules import Moment


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"now": Moment(0)}, "Epoch 1 of 12"),
        ({"now": Moment(2, 7), "steps": None}, "Epoch 3 of 12, step 7"),
        ({"now": Moment(12)}, "Epoch 12 of 12"),
        ({"now": Moment(12), "state": FitState.DONE}, "Done: 12 epochs in 4 min 12 s"),
        (
            {"now": Moment(12), "state": FitState.DONE, "first": 11},
            "Done: 1 epoch in 4 min 12 s, 11 before",
        ),
        ({"now": Moment(3), "state": FitState.STOPPED}, "Stopped after 3 of 12 epochs"),
        ({"now": Moment(3, 9), "state": FitState.INTERRUPTED}, "Interrupted in epoch 4 of 12"),
        ({"now": Moment(3), "state": FitState.INTERRUPTED}, "Interrupted after epoch 3 of 12"),
        ({"now": Moment(0), "state": FitState.INTERRUPTED}, "Interrupted in epoch 1 of 12"),
    ],
)
def test_how_far_it_has_come(changes, text):
    assert words.headline(statuses.running(**changes)).startswith(text)


@pytest.mark.parametrize(
    ("phase", "text"),
    [
        (PhaseStatus((), 1, 4, "after 2 epochs", Moment(4)), "Phase 2 of 4, ends: after 2 epochs"),
        (PhaseStatus((), 0, None, "with the fit", Moment(9)), "Phase 1, ends: with the fit"),
        (
            PhaseStatus((), 2, None, "after 1 epoch", Moment(9), note="freeze depth 3"),
            "Phase 3 (freeze depth 3), ends: after 1 epoch",
        ),
        (PhaseStatus((), -1, 2, "after 3 epochs", Moment(3)), "Before the first phase, ends"),
        (None, ""),
    ],
)
def test_which_phase_it_is(phase, text):
    assert words.phase(Status("net", phase=phase)).startswith(text)


def test_a_phase_of_unknown_length_has_no_time():
    waits = PhaseStatus((), 0, 2, "val_loss stalls for 3 epochs", None, "val_loss")
    status = statuses.running(phase=waits, phase_left_s=None, fit_left_s=200.0)
    assert words.time_left(status) == ["phase: waits for val_loss", "fit: about 3 min left"]
    assert words.time_left(dataclasses.replace(status, state=FitState.DONE)) == []


def test_rates_are_those_of_transition_lines():
    head = GroupStatus("head", 1, GroupState.TRAINS, 0.00038564)
    assert words.rate(head) == "3.9e-04"
    assert words.rate(dataclasses.replace(head, rate=0.385, is_multiple=True)) == "x0.385"
    assert words.rate(dataclasses.replace(head, rate=None)) == ""


def test_few_groups_have_a_row_each_and_of_many_neighbours_share_one():
    few = words.rows(statuses.groups(4, trains=2))
    assert [row.label for row in few] == ["head", "block2", "block1", "block0"]
    assert [row.state.value for row in few] == ["trains", "trains", "trains in part", "frozen"]
    many = words.rows(statuses.groups(30, trains=3))
    assert [row.label for row in many] == [
        "3 groups (head to block27)",
        "block26",
        "26 groups (block25 to block0)",
    ]
    assert many[0].rate == "1.0e-03 to 1.5e-04"
    assert sum(row.params for row in many) == sum(g.params for g in statuses.groups(30))


def test_a_line_for_each_epoch():
    status = statuses.running(now=Moment(6))
    assert words.epoch_line(status) == (
        "Epoch 6/12: loss 0.6667, val_loss 1.078, accuracy 0.68, val_accuracy 0.525; "
        "phase: about 40 s left; fit: about 3 min left."
    )
    assert words.epoch_line(Status("net", now=Moment(1), epochs=3)) == "Epoch 1/3: done."


def test_all_lines():
    lines = words.as_lines(statuses.running(3, trains=1))
    assert lines[0] == "vgg16_photographs: Epoch 7 of 12, step 40 of 120"
    assert lines[1:4] == ["  ■ head    1.0e-03", "  □ block1  frozen", "  □ block0  frozen"]
    assert lines[-3:] == list(statuses.LOG)
    assert lines[-4].startswith("cache: cuts at block4_pool")


def test_a_sparkline_is_thinned():
    assert words.sparkline(range(8)) == "▁▂▃▄▅▆▇█"
    assert len(words.sparkline(range(1000), width=30)) == 30
    assert words.sparkline([1.0, 1.0]) == "▁▁"
    assert words.sparkline([float("nan")] * 2) == "  "
    assert words.thinned(range(1000), 3) == [0, 500, 999]
