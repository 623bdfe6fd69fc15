"""Learning rates of layer groups, as multiples of the compiled one."""

import itertools

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


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 14, 100])
def test_the_default_spans_a_hundredth_at_most(count):
    names = [f"group{n}" for n in range(count)]
    found = list(multipliers("default", names).values())
    factors = [high / low for low, high in itertools.pairwise(found)]
    assert found[-1] == 1
    assert factors == pytest.approx([factors[0]] * (count - 1) if factors else [])
    if count <= 5:
        assert factors == pytest.approx([2.6] * (count - 1))
    else:
        assert found[0] == pytest.approx(0.01)
