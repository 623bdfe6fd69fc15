"""What a range test suggests, on losses whose answer is known."""

import json
import math

import numpy as np
import pytest

from keras_freeze.learning_rates import LearningRateRange, RangeTest
from keras_freeze.learning_rates.range_test import diverges, smoothed, steepest, valley

RATES = tuple(10.0 ** np.linspace(-6, 0, 61))


def of(losses, phase=0):
    return RangeTest(phase, ("head",), RATES[: len(losses)], tuple(losses))


def test_the_average_is_that_of_all_losses_with_weights_that_fade():
    losses = [3.0, 1.0, 2.0, 5.0]
    for n in range(1, 5):
        weights = 0.98 ** np.arange(n)[::-1]
        assert smoothed(losses)[n - 1] == pytest.approx(np.average(losses[:n], weights=weights))


@pytest.mark.parametrize(
    ("losses", "place"),
    [
        ([4.0, 3.0, 2.0, 1.0], 1),
        ([9.0, 1.0, 5.0, 4.0, 3.0, 2.0], 3),  # 9, 5, 4, 3, 2: a loss in between is left out
        ([1.0, 1.0, 1.0], None),
        ([1.0, 2.0, 3.0], None),
        ([2.0], None),
        ([3.0, 2.0, math.nan], 0),
    ],
    ids=["falls", "with a gap", "flat", "rises", "one", "NaN at the end"],
)
def test_the_valley_is_the_middle_of_the_longest_fall(losses, place):
    assert valley(losses) == place


@pytest.mark.parametrize(
    ("losses", "place"),
    [
        ([5.0, 5.0, 4.0, 1.0, 1.0, 3.0], 2),
        ([1.0, 2.0, 4.0], None),
        ([3.0, 3.0, 2.0, math.nan], 1),
        ([3.0], None),
        ([3.0, 2.9, 2.0, 9.0, 6.0], 1),
    ],
    ids=["falls", "rises", "NaN at the end", "one", "falls again after the rise"],
)
def test_the_steepest_place(losses, place):
    assert steepest(losses) == place


def test_noise_is_not_the_steepest_place():
    flat = np.full(60, 3.0)
    flat[20:23] = 3.1, 2.9, 3.0  # falls by 0.2 in a step
    assert steepest([*flat, *np.linspace(3, 1, 30)]) >= 58


@pytest.mark.parametrize(
    ("losses", "is_over"),
    [
        ([2.0, 1.0, 3.9], False),
        ([2.0, 1.0, 4.1], True),
        ([2.0, 0.0, 5.9], False),  # 4 times nothing is nothing
        ([-1.0, -3.0, 5.9], False),
        ([-1.0, -3.0, 6.1], True),
        ([1.0, math.inf], True),
        ([math.nan], True),
    ],
)
def test_where_a_loss_diverges(losses, is_over):
    assert diverges(losses) is is_over


def test_phases_have_the_lowest_valley_in_common():
    falls = np.concatenate([np.full(20, 3.0), np.linspace(3, 1, 20)])
    later = np.concatenate([np.full(40, 3.0), np.linspace(3, 1, 20)])
    barely = np.linspace(1.0, 0.9999, 9)  # so do the roundings of a loss that is flat
    found = LearningRateRange("net", (of(later), of(falls, 1), of(barely, 2)))
    first, second, third = found.tests
    assert 1e-4 < second.valley < second.steepest < 1e-2 < first.valley < first.steepest
    assert math.isnan(third.valley)
    assert math.isnan(third.steepest)
    assert found.learning_rate == second.valley
    with pytest.raises(ValueError, match="'net': the loss falls in no phase"):
        _ = LearningRateRange("net", (third,)).learning_rate


def test_the_first_and_the_last_steps_suggest_nothing():
    falls = [3.2, 3.0, 3.1, *np.full(20, 3.0), *np.linspace(3.0, 1.0, 37)]
    test = of(falls)  # fastest at the beginning, by chance
    assert np.gradient(test.smoothed).argmin() < 3
    assert test.steepest > RATES[20]
    assert math.isnan(of([*np.full(50, 3.0), 2.0, 1.0, 0.5, 0.2, 0.1]).valley)


def test_a_loss_that_falls_to_the_end_leaves_higher_rates_open():
    assert of(np.linspace(3, 1, 30)).is_still_falling
    assert not of([*np.linspace(3, 1, 25), *np.full(6, 4.0)]).is_still_falling
    assert not of([3.0, 2.0, math.nan]).is_still_falling
    assert not of([*np.linspace(3, 1, 29), 1e4]).is_still_falling


def test_what_it_shows():
    losses = [*np.linspace(3, 1, 30), 1e4]
    found = LearningRateRange("net", (of(losses), of([1.0, 1.0], 1)))
    test = found.tests[0]
    table = str(found)
    assert f"net: learning rate {test.valley:.2g}" in table
    assert f"{RATES[30]:.2g}" in table
    assert "-         -            -" in table
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["learning_rate"] == test.valley
    assert plain["tests"][0]["diverged_at"] == RATES[30]
    assert plain["tests"][1]["valley"] is None
    assert repr(found) == f"LearningRateRange(model='net', learning_rate={test.valley:.2g})"
