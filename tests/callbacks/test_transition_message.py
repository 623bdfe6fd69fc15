"""The lines of a schedule: what changes, the new counts, the rates of what is new, as numbers."""

import pytest

from keras_freeze.callbacks.transition_message import (
    Change,
    moment,
    rates_end,
    sentence,
    summary,
)

NAMES = tuple(f"block{n}" for n in range(14))
ALL = (*NAMES, "head")
RATES = {name: 2.0 ** (n - 14) for n, name in enumerate(ALL)}
SAME = dict.fromkeys(ALL, 1.0)

CHANGES = {
    "the head alone": (
        Change(ALL, None, NAMES, 3),
        RATES,
        "head trains at 1.0e-03, 14 groups (block0 to block13) are frozen",
    ),
    "everything": (
        Change(ALL, None, (), 0),
        RATES,
        "15 groups (head to block0) train at 1.0e-03 to 6.1e-08",
    ),
    "one frozen": (
        Change(ALL, None, ("block0",), 1),
        SAME,
        "14 groups (head to block1) train at 1.0e-03, block0 is frozen",
    ),
    "one more": (Change(ALL, NAMES, NAMES[:-1], 2), RATES, "block13 unfreezes at 5.0e-04"),
    "three more": (
        Change(ALL, NAMES, NAMES[:-3], 2),
        RATES,
        "block13, block12 and block11 unfreeze at 5.0e-04, 2.5e-04 and 1.3e-04",
    ),
    "many more": (
        Change(ALL, NAMES, (), 20),
        RATES,
        "14 groups (block13 to block0) unfreeze at 5.0e-04 to 6.1e-08",
    ),
    "many at one rate": (
        Change(ALL, NAMES, (), 20),
        SAME,
        "14 groups (block13 to block0) unfreeze at 1.0e-03",
    ),
    "one freezes": (Change(ALL, (), ("block0",), 2), RATES, "block0 freezes"),
    "one for another": (
        Change(ALL, ("head",), ("block0",), 4),
        RATES,
        "head unfreezes at 1.0e-03, block0 freezes",
    ),
    "weights within groups": (
        Change(ALL, ("block0",), ("block0",), 1),
        RATES,
        "a new phase begins: 1 variable changes within groups",
    ),
    "rates alone": (
        Change(ALL, ("block0",), ("block0",), 0),
        RATES,
        "a new phase begins: the same variables train",
    ),
}


@pytest.mark.parametrize(("change", "rates", "text"), CHANGES.values(), ids=CHANGES)
def test_what_changes(change, rates, text):
    said = sentence(change, (1_735_488, 16_191_882), rates, 1e-3)
    assert said == f"{text}; 1,735,488 of 17,927,370 parameters train."


def test_without_a_single_rate_multiples_are_given():
    unfreezes = Change(ALL, NAMES, NAMES[:-1], 2)
    assert sentence(unfreezes, (1, 0), SAME, None).startswith("block13 unfreezes; ")
    said = sentence(unfreezes, (1, 0), RATES, None)
    assert said.startswith("block13 unfreezes at 0.5 times the compiled rate; ")


def test_no_line_is_longer_with_many_groups():
    for change, rates, _ in CHANGES.values():
        assert len(moment(99, 100, 12_345) + sentence(change, (10**9, 10**9), rates, 1e-3)) < 150


ENDS = "After training: group learning rates are reset; a further fit trains at 1.0e-03 everywhere."
ENDED = {
    "all as planned": (((3, 3), (), None, False), []),
    "group rates": (((3, 3), (), None, True), [ENDS]),
    "too few epochs": (
        ((2, 15), NAMES[:3], 7, False),
        [
            "After training: 2 of 15 phases ran, and block0, block1 and block2 are frozen; the "
            "next phase begins at epoch 8."
        ],
    ),
    "a trigger that did not fire": (
        ((1, 2), ("block0",), None, False),
        [
            "After training: 1 of 2 phases ran, and block0 is frozen; the next phase waits for its "
            "trigger."
        ],
    ),
    "nothing frozen, though": (
        ((1, 2), (), None, True),
        [
            "After training: 1 of 2 phases ran; the next phase waits for its trigger.",
            ENDS,
        ],
    ),
    "never named": (
        ((2, 2), NAMES, None, True),
        [
            "After training: 14 groups (block0 to block13) are frozen, as no phase of the schedule "
            "unfreezes more.",
            ENDS,
        ],
    ),
}


@pytest.mark.parametrize(("ended", "lines"), ENDED.values(), ids=ENDED)
def test_what_a_fit_leaves_behind(ended, lines):
    *ran, has_rates = ended
    assert [*summary(*ran), *[rates_end(1e-3)] * has_rates] == lines
