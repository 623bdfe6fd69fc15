"""A picture of `find_learning_rate`: the loss of each phase by learning rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from keras_freeze.learning_rates import LearningRateRange
from keras_freeze.plots.style import OVER_MARKS, figure_class, palette, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Lines that differ where the colours have all been used.
_DASHES = ("-", "--", ":", "-.")


def learning_rates(found: LearningRateRange, *, ax: Axes | None = None) -> Figure | SubFigure:
    """Draw the smoothed loss of each phase over the learning rate; dots are the valleys.

    Args:
        found: `LearningRateRange`, as `find_learning_rate` returns it.
        ax: `matplotlib.axes.Axes` of yours, to draw into. Defaults to None, a new figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:
        >>> from keras_freeze.learning_rates import RangeTest
        >>> test = RangeTest(0, ("head",), (1e-3, 1e-2, 1e-1), (2.0, 1.5, 1.0))
        >>> figure = learning_rates(LearningRateRange("net", (test,)))
        >>> figure.axes[0].get_xscale()
        'log'
    """
    import matplotlib.pyplot as plt

    if ax is None:
        with styled():
            _, ax = plt.subplots(
                figsize=(6.4, 3.6), layout="constrained", FigureClass=figure_class()
            )
    lowest, highest, colours = math.inf, -math.inf, palette()
    for number, test in enumerate(found.tests):
        losses = test.smoothed
        finite = [loss for loss in losses if math.isfinite(loss)]
        lowest = min(lowest, *finite)
        highest = max(highest, *finite[:1])
        colour = colours[number % len(colours)]
        dashes = _DASHES[number // len(colours) % len(_DASHES)]
        label = f"phase {test.phase}: {test.training[-1] if test.training else 'nothing'} and up"
        if len(test.training) == 1:
            label = f"phase {test.phase}: {test.training[0]}"
        if not math.isnan(test.valley):
            label += f", {test.valley:.1e}"
            where = losses[test.rates.index(test.valley)]
            ax.plot(test.valley, where, "o", color=colour)
        ax.plot(test.rates, losses, dashes, color=colour, label=label)
    if math.isfinite(highest - lowest):  # what diverges would hide where the loss falls
        room = 0.5 * (highest - lowest) or 1.0
        ax.set_ylim(lowest - 0.1 * room, highest + room)
    ax.set_xscale("log")
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss, smoothed")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, **OVER_MARKS)
    return ax.figure
