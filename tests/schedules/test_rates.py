"""Learning rates of layer groups, as multiples of the compiled one."""

import pytest

from keras_freeze import schedules
from keras_freeze.schedules import multipliers

NAMES = ["block1", "block2", "block3", "head"]

RATES = {
    "none": (None, [1, 1, 1, 1]),
    "factor": (2.0, [1 / 8, 1 / 4, 1 / 2, 1]),
    "factor of one": (1, [1, 1, 1, 1]),
    "mapping": ({"block1": 0.1, "block3": 2}, [0.1, 2, 2, 1]),
    "mapping of the lowest": ({"block1": 0.1}, [0.1, 1, 1, 1]),
    "mapping of the head": ({"head": 3, "block2": 0.5}, [0.5, 0.5, 3, 3]),
    "mapping by pattern": ({"block[13]": 0.1}, [0.1, 0.1, 0.1, 1]),
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
    assert multipliers({"head": 3.0}, ["low", "fc"]) == {"low": 3.0, "fc": 3.0}
