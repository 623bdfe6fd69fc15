"""A phase is a value: what it freezes, what means the same, and how it looks."""

import pytest
from html_cells import html_cells

from keras_freeze import policies
from keras_freeze.schedules import AfterSteps, Cosine, OnPlateau, Phase


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


def test_what_means_the_same_is_equal():
    assert Phase(None) == Phase([]) == Phase(())
    assert Phase(["a"]) == Phase(("a",))
    assert Phase(weights=["kernel"]) == Phase(weights=("kernel",))
    assert policies.FreezeGroups("a", [["a"], "b"]) == policies.FreezeGroups("a", (("a",), "b"))
    rates = {"low": 0.5}
    phase = Phase(rates=rates)
    rates["low"] = 2.0
    assert phase.rates == {"low": 0.5}


SHOWN = {  # a phase, its representation, and the rows of its HTML form
    "of defaults": (Phase(), "Phase(frozen=())", [("frozen", "nothing")]),
    "of everything": (
        Phase(
            ["low", "mid"],
            rates={"low": 0.5},
            batch_norm="follow",
            weights="kernel",
            until=OnPlateau("loss") | AfterSteps(9),
            restore_best=True,
            curve=Cosine(),
        ),
        "Phase(frozen=('low', 'mid'), rates={'low': 0.5}, batch_norm='follow', weights='kernel', "
        "until=AnyOf(triggers=(OnPlateau(monitor='loss', patience=3, min_delta=0.0, mode='auto', "
        "cooldown=0), AfterSteps(steps=9))), restore_best=True, "
        "curve=Cosine(steps=None, floor=0.0))",
        [
            ("frozen", "low and mid"),
            ("rates", "{'low': 0.5}"),
            ("batch_norm", "follow"),
            ("weights", "kernel"),
            ("until", "loss stalls for 3 epochs, or after 9 steps"),
            ("restore_best", "True"),
            ("curve", "Cosine(steps=None, floor=0.0)"),
        ],
    ),
    "of many groups": (
        Phase([f"block{n}" for n in range(14)], until=2),
        "Phase(frozen=('block0', ..., 'block13'), until=AfterEpochs(epochs=2))",
        [("frozen", "block0, block1, block2 and 11 more"), ("until", "after 2 epochs")],
    ),
}


@pytest.mark.parametrize("case", SHOWN)
def test_how_a_phase_looks(case):
    phase, text, rows = SHOWN[case]
    assert repr(phase) == text
    cells = html_cells(phase._repr_html_())
    assert cells[0] == ["argument", "value"]
    assert [tuple(row) for row in cells[1:]] == rows
