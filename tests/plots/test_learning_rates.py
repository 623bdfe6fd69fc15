"""The picture of range tests: a line and a dot for each phase, and nothing that hides them."""

import math

import numpy as np
import pytest

import keras_freeze as kf
from keras_freeze import plots
from keras_freeze.learning_rates import RangeTest

RATES = tuple(10.0 ** np.linspace(-6, 0, 31))


def found(phases, last=1e6):
    losses = (*np.full(10, 3.0), *np.linspace(3, 1, 20), last)
    groups = [f"block{n}" for n in range(phases)][::-1]
    tests = [RangeTest(n, tuple(groups[: n + 1]), RATES, losses) for n in range(phases)]
    return kf.LearningRateRange("net", tuple(tests))


@pytest.mark.parametrize("last", [1e6, math.nan])
def test_lines_dots_and_names(last):
    tests = found(3, last)
    (axes,) = plots.learning_rates(tests).axes
    lines = [line for line in axes.lines if line.get_linestyle() != "None"]
    dots = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert [list(line.get_xdata()) for line in lines] == [[*RATES]] * 3
    assert [list(dot.get_xdata()) for dot in dots] == [[test.valley] for test in tests.tests]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [name.partition(",")[0] for name in names] == [
        "phase 0: block2", "phase 1: block1 and up", "phase 2: block0 and up",
    ]  # fmt: skip
    low, high = axes.get_ylim()
    lowest = min(tests.tests[0].smoothed[:-1])
    assert low < lowest < 3 < high < 6  # where the loss diverges is cut off


def test_into_axes_of_ones_own():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    assert plots.learning_rates(found(1), ax=axes) is figure
    assert axes.get_xscale() == "log"
