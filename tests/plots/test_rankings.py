"""The picture of a ranking: every group that was looked at, its rank, and what is new apart."""

import numpy as np
import pytest

import keras_freeze as kf
from keras_freeze import plots
from keras_freeze.ranking import RankedGroup


def ranked(count):
    rng = np.random.default_rng(0)
    rows = [RankedGroup(f"block{n}", 10, *rng.uniform(1e-3, 1.0, 2), True) for n in range(count)]
    rows.insert(1, RankedGroup("norms", 0, float("nan"), float("nan"), True))
    return kf.GroupRanking("net", 5, (*rows, RankedGroup("head", 10, 2.0, 1.0, False)))


@pytest.mark.parametrize("by", ["relative_gradient_norm", "signal_to_noise"])
def test_bars_and_ranks(by):
    ranking = ranked(4)
    (axes,) = plots.ranking(ranking, by=by).axes
    assert [t.get_text() for t in axes.get_xticklabels()] == [
        "block0", "block1", "block2", "block3", "head",
    ]  # fmt: skip
    rows = [group for group in ranking.groups if group.params]
    heights = [bar.get_height() for bars in axes.containers for bar in bars]
    assert heights == [getattr(group, by) for group in rows]
    ranks = {text.get_text(): text.xy[0] for text in axes.texts}
    assert [rows[ranks[str(n)]].name for n in range(1, 5)] == list(ranking.ranked(by))


def test_into_axes_of_ones_own():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    assert plots.ranking(ranked(2), ax=axes) is figure
    assert axes.get_ylabel() == "relative gradient norm"
