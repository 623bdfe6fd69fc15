"""What a callback runs: the schedule for the layer groups and epochs of a fit."""

import re

import pytest

from keras_freeze.schedules import (
    AfterEpochs,
    FreezeSchedule,
    FromTheHead,
    GivenSchedule,
    OnPlateau,
    Phase,
)

NAMES = ["block1", "block2", "block3", "head"]
B1, B2, B3, HEAD = NAMES

# Given.

SCHEDULE = FreezeSchedule([Phase(B1, until=2), Phase()])
GIVEN = {  # a schedule, its mode, and the schedule that is planned
    "a schedule": (SCHEDULE, "frozen", SCHEDULE),
    "a mapping": ({0: 2, 4: None}, "frozen", FreezeSchedule({0: 2, 4: None})),
    "a mapping with a mode": (
        {0: 2, 4: Phase(B1), 6: None},
        "follow",
        FreezeSchedule(
            {0: Phase(2, batch_norm="follow"), 4: Phase(B1), 6: Phase(batch_norm="follow")}
        ),
    ),
}


@pytest.mark.parametrize("case", GIVEN)
def test_a_given_schedule(case):
    schedule, mode, expected = GIVEN[case]
    planner = GivenSchedule("Own", schedule, mode)
    assert planner.plan_for(NAMES, 3) == planner.plan_for([], 1) == expected
    assert planner.remarks_for(NAMES, 1) == ()
    assert not planner.keeps_unfrozen


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_file_is_read_for_each_plan(kind, tmp_path):
    path = tmp_path / "plan.yaml"
    SCHEDULE.to_yaml(path)
    planner = GivenSchedule("Own", kind(path))
    assert planner.plan_for(NAMES, 3) == SCHEDULE
    FreezeSchedule({0: 1}).to_yaml(path, overwrite=True)
    assert planner.plan_for(NAMES, 3) == FreezeSchedule({0: 1})


# From the head.

HEADS = {  # a schedule, the epochs, when each phase begins and what it freezes
    "even": ("even", 8, {0: (B1, B2, B3), 2: (B1, B2), 4: (B1,), 6: ()}),
    "even, few epochs": ("even", 2, {0: (B1, B2, B3), 1: ()}),
    "even, one epoch": ("even", 1, {0: ()}),
    "an int": (3, 5, {0: (B1, B2, B3), 3: (B1, B2), 6: (B1,), 9: ()}),
    "a mapping": ({0: "head", 4: [B3, B1]}, 9, {0: (B1, B2, B3), 4: (B2,)}),
}


@pytest.mark.parametrize("mode", ["frozen", "train"])
@pytest.mark.parametrize("case", HEADS)
def test_by_epochs_from_the_head(case, mode):
    schedule, epochs, frozen = HEADS[case]
    planner = FromTheHead("Own", schedule, mode)
    phases = {epoch: Phase(names, batch_norm=mode) for epoch, names in frozen.items()}
    assert planner.plan_for(NAMES, epochs) == FreezeSchedule(phases)
    assert planner.keeps_unfrozen


def improved(logs):
    return True


@pytest.mark.parametrize(
    "trigger", [OnPlateau(), AfterEpochs(2), improved], ids=["plateau", "epochs", "callable"]
)
def test_by_a_trigger_that_ends_the_fit_too(trigger):
    planner = FromTheHead("Own", trigger, "follow")
    frozen = [(B1, B2, B3), (B1, B2), (B1,), ()]
    phases = [Phase(names, batch_norm="follow", until=trigger) for names in frozen]
    assert planner.plan_for(NAMES, 9).phases == tuple(phases)
    assert planner.plan_for([HEAD], 9).phases == (phases[-1],)
    assert planner.remarks_for(NAMES, 1) == ()


def test_a_single_group_trains_from_the_first_epoch():
    for schedule in ("even", 2, {0: "head"}):
        planner = FromTheHead("Own", schedule)
        assert planner.plan_for([HEAD], 5) == FreezeSchedule({0: None})
        assert planner.remarks_for([HEAD], 1) == ()


REMARKS = {  # a schedule and the epochs: what is printed for four groups
    "few epochs": (
        ("even", 3),
        "Own: 3 epochs for 4 layer groups, so several groups unfreeze at once.",
    ),
    "one epoch": (
        ("even", 1),
        "Own: 1 epoch for 4 layer groups, so several groups unfreeze at once.",
    ),
    "enough epochs": (("even", 4), None),
    "an int is asked for": ((2, 1), None),
    "a mapping is asked for": (({0: "head"}, 1), None),
}


@pytest.mark.parametrize("case", REMARKS)
def test_remarks(case):
    (schedule, epochs), sentence = REMARKS[case]
    remarks = FromTheHead("Own", schedule).remarks_for(NAMES, epochs)
    assert remarks == (() if sentence is None else (sentence,))


# What is wrong.

ERRORS = {  # the planner, its arguments, the exception and its beginning
    "given: a number": (
        (GivenSchedule, 3),
        TypeError,
        "Own(schedule=...) must be a FreezeSchedule, the path of its YAML file, or a mapping from "
        "epoch to what is frozen. Received: schedule=3.",
    ),
    "given: no such file": (
        (GivenSchedule, "even"),
        FileNotFoundError,
        "FreezeSchedule.from_yaml(path=...) must name a file.",
    ),
    "given: not frozen": (
        (GivenSchedule, {0: 0.5}),
        TypeError,
        "Phase(frozen=...) must be an int",
    ),
    "given: a mode twice": (
        (GivenSchedule, SCHEDULE, "train"),
        ValueError,
        "Own(batch_norm=...) must be left out where the phases of a schedule have modes of their "
        "own. Received: batch_norm='train'.",
    ),
    "given: an unknown mode": (
        (GivenSchedule, {0: 1}, "off"),
        ValueError,
        "Own(batch_norm=...) must be one of frozen, follow",
    ),
    "head: an unknown mode": (
        (FromTheHead, "even", "off"),
        ValueError,
        "Own(batch_norm=...) must be one of frozen, follow",
    ),
    "head: a callable without arguments": (
        (FromTheHead, lambda: True),
        TypeError,
        "Own(schedule=...) must take one argument, the logs of the epoch.",
    ),
    "head: no names": (
        (FromTheHead, {0: 2}),
        TypeError,
        "Own(schedule=...) must map each epoch to a group's name or a sequence of names. "
        "Received: 2 at epoch 0. Name the groups that unfreeze then.",
    ),
    "head: no epoch": (
        (FromTheHead, {-1: "head"}),
        ValueError,
        "Own(schedule=...) must have epochs as keys, non-negative integers. Received: -1.",
    ),
    **{
        f"head: {schedule!r}": (
            (FromTheHead, schedule),
            ValueError,
            'Own(schedule=...) must be "even", "auto", a positive int (epochs per group), a '
            "mapping from epoch to groups that begins at epoch 0, a trigger such as "
            "schedules.OnPlateau(), or a schedules.Auto. "
            f"Received: schedule={schedule!r}.",
        )
        for schedule in ("odd", 0, True, 2.5, None, {}, {1: "head"})
    },
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_the_owner(case):
    (kind, *arguments), exception, message = ERRORS[case]
    with pytest.raises(exception, match=f"^{re.escape(message)}"):
        kind("Own", *arguments)


def test_an_unknown_group_is_named_with_the_owner_when_planned():
    planner = FromTheHead("Own", {0: "haed"})
    with pytest.raises(ValueError, match=r"^Own\(schedule=\.\.\.\) must name layer groups"):
        planner.plan_for(NAMES, 3)
