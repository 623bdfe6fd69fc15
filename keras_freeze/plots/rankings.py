"""A picture of `rank_groups`: which layer groups the data at hand would change most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_freeze.plots.style import (
    COLOURS,
    FROZEN_COLOUR,
    MAX_WIDTH,
    OVER_MARKS,
    WIDE,
    figure_class,
    styled,
)
from keras_freeze.ranking import By, GroupRanking

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_LABELS = {"relative_gradient_norm": "relative gradient norm", "signal_to_noise": "signal to noise"}


def ranking(
    groups: GroupRanking, *, by: By = "relative_gradient_norm", ax: Axes | None = None
) -> Figure | SubFigure:
    """Draw the groups of a ranking from input to head, with their ranks.

    Args:
        groups: `GroupRanking`, as `rank_groups` returns it.
        by: `"relative_gradient_norm"` (default) or `"signal_to_noise"`.
        ax: `matplotlib.axes.Axes` of yours, to draw into. Defaults to None, a new figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: if `by` is neither.

    Example:
        >>> from keras_freeze.ranking import RankedGroup
        >>> rows = [RankedGroup("low", 8, 0.5, 1.0, True), RankedGroup("head", 8, 2.0, 1.0, False)]
        >>> figure = ranking(GroupRanking("net", 5, tuple(rows)))
        >>> figure.axes[0].get_ylabel()
        'relative gradient norm'
    """
    import matplotlib.pyplot as plt

    places = {name: n for n, name in enumerate(groups.ranked(by), 1)}
    if ax is None:
        width = min(max(4.0, 1.5 + 0.45 * len(groups.groups)), MAX_WIDTH)
        with styled():
            _, ax = plt.subplots(
                figsize=(width, 3.6), layout="constrained", FigureClass=figure_class()
            )
    rows = [group for group in groups.groups if group.params]
    for kind, label in ((True, "pretrained"), (False, "new, trains anyway")):
        own = [(n, getattr(g, by)) for n, g in enumerate(rows) if g.is_pretrained is kind]
        if own:
            x, heights = zip(*own, strict=True)
            colour, hatch = (COLOURS[0], None) if kind else (FROZEN_COLOUR, "//")
            ax.bar(x, heights, label=label, color=colour, hatch=hatch)
    for n, group in enumerate(rows):
        if group.name in places:
            where = n, getattr(group, by)
            ax.annotate(
                str(places[group.name]), where, (0, 2), textcoords="offset points", ha="center"
            )
    values = [getattr(group, by) for group in rows]
    if max(values) > WIDE * min(values) > 0:
        ax.set_yscale("log")
    ax.set_ylabel(_LABELS[by])
    turned = len(rows) > 8 or max(len(group.name) for group in rows) > 8
    ax.set_xticks(
        range(len(rows)),
        [group.name for group in rows],
        rotation=60 if turned else 0,
        ha="right" if turned else "center",
    )
    ax.margins(x=0.02, y=0.15)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, **OVER_MARKS)
    return ax.figure
