"""A picture of what an adaptive schedule decided: what it measured, and what followed from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras_freeze.callbacks import FreezeScheduler
from keras_freeze.checks import ArgumentError
from keras_freeze.plots.style import COLOURS, OVER_MARKS, figure_class, styled
from keras_freeze.schedules import Decisions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_MARKERS = "osD^vP*X"
_LINES = ("-", "--", "-.", ":")


def decisions(made: FreezeScheduler | Decisions, *, ax: Axes | None = None) -> Figure | SubFigure:
    """Draw what an adaptive schedule measured, and against what it decided.

    Args:
        made: A callback with an adaptive schedule, such as `GradualUnfreeze("auto")`, after a fit;
            or its `decisions`.
        ax: `matplotlib.axes.Axes` of yours, to draw into. Defaults to None, a new figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: if the callback has decided nothing.

    Example:
        >>> from keras_freeze.schedules import DecisionRow, Measured
        >>> measured = (Measured(1, "depth 1", 2.0), Measured(2, "depth 0", 2.2))
        >>> row = DecisionRow(2, "depth 0 is dropped", 2.2, 2.0, "val_loss")
        >>> figure = decisions(Decisions("val_loss", (row,), measured, "depth 1 of 1: head trains"))
        >>> figure.axes[0].get_ylabel()
        'val_loss'
    """
    import matplotlib.pyplot as plt
    import matplotlib.ticker

    given: Any = made
    found = made if isinstance(made, Decisions) else getattr(given, "decisions", None)
    if not isinstance(found, Decisions):
        raise ArgumentError(
            "decisions",
            "made",
            "have decided something",
            value=made,
            advice='Pass a callback with an adaptive schedule, such as GradualUnfreeze("auto"), '
            "after its fit.",
        )
    if ax is None:
        with styled():
            _, ax = plt.subplots(
                figsize=(6.4, 3.8), layout="constrained", FigureClass=figure_class()
            )
    labels = dict.fromkeys(point.label for point in found.measured)
    for n, label in enumerate(labels):
        points = [point for point in found.measured if point.label == label]
        ax.plot(
            [point.epochs for point in points],
            [point.value for point in points],
            label=label,
            color=COLOURS[n % len(COLOURS)],
            marker=_MARKERS[n % len(_MARKERS)],
            markersize=5,
            linestyle=_LINES[n // len(COLOURS) % len(_LINES)],
        )
    label = "threshold"
    for epochs in sorted({row.epochs for row in found.rows}):
        ax.axvline(epochs + 0.5, color="#777777", linestyle=":", linewidth=1)
        for row in found.rows:
            is_drawn = row.epochs == epochs and row.metric == found.criterion
            if is_drawn and row.threshold is not None:
                ends = [row.threshold, row.threshold]
                ax.plot([epochs - 0.3, epochs + 0.3], ends, color="#444444", label=label)
                label = "_again"
    ax.set_xlabel("epoch")
    ax.set_ylabel(found.criterion)
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    ax.margins(x=0.04)
    ax.set_title(found.verdict.partition(";")[0], loc="left")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), **OVER_MARKS)
    return ax.figure
