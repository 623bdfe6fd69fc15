"""A picture of what an adaptive schedule decided: what it measured, and what followed from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_freeze.callbacks import FreezeScheduler
from keras_freeze.checks import ArgumentError
from keras_freeze.plots.style import OVER_MARKS, figure_class, palette, styled
from keras_freeze.schedules import DecisionRow, Decisions

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
    from matplotlib.transforms import ScaledTranslation

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
    others = _other_metrics(found)
    if ax is None:
        with styled():
            _, ax = plt.subplots(
                figsize=(8.8 if others else 6.4, 3.8),
                layout="constrained",
                FigureClass=figure_class(),
            )
    colours, labels = palette(), dict.fromkeys(point.label for point in found.measured)
    for n, label in enumerate(labels):
        points = [point for point in found.measured if point.label == label]
        ax.plot(
            [point.epochs for point in points],
            [point.value for point in points],
            label=label,
            color=colours[n % len(colours)],
            marker=_MARKERS[n % len(_MARKERS)],
            markersize=5,
            linestyle=_LINES[n // len(colours) % len(_LINES)],
        )
    for epochs in sorted({row.epochs for row in found.rows}):
        ax.axvline(epochs + 0.5, color="0.5", linestyle=":", linewidth=1)
    drawn_in = [ax]
    for number, metric in enumerate((found.criterion, *others)):
        if number:
            drawn_in.append(_axis_beside(ax, metric, 60.0 * (number - 1)))
        own = [row for row in found.rows if row.metric == metric and row.threshold is not None]
        _draw_thresholds(drawn_in[-1], own, metric if others else "", is_measured=not number)
    ax.set_xlabel("epoch")
    ax.set_ylabel(found.criterion)
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    ax.margins(x=0.04)
    ax.set_title(found.verdict.partition(";")[0], loc="left")
    handles = [handle for axes in drawn_in for handle in axes.get_legend_handles_labels()[0]]
    if handles:  # beside the scales of other metrics
        width = 60.0 * len(others) / 72
        beside = ScaledTranslation(width, 0, ax.figure.dpi_scale_trans)
        ax.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            bbox_transform=ax.transAxes + beside,
            **OVER_MARKS,
        )
    return ax.figure


def _other_metrics(found: Decisions) -> list[str]:
    """Return the metrics beside the criterion that had a threshold, as that of a tolerance."""
    rows = (row for row in found.rows if row.threshold is not None)
    return list(dict.fromkeys(row.metric for row in rows if row.metric != found.criterion))


def _axis_beside(ax: Axes, metric: str, distance: float) -> Axes:
    """Return axes with a scale of their own for a metric, so many points to the right."""
    beside = ax.twinx()
    beside.set_ylabel(metric)
    beside.grid(visible=False)
    for side in ("top", "left", "bottom"):
        beside.spines[side].set_visible(False)
    beside.spines["right"].set_visible(True)
    beside.spines["right"].set_position(("outward", distance))
    return beside


def _draw_thresholds(
    axes: Axes, rows: Sequence[DecisionRow], metric: str, *, is_measured: bool
) -> None:
    """Draw the thresholds of a metric, and its values where these are not drawn as measured.

    Args:
        axes: Where the metric has its scale.
        rows: The decisions that had a threshold.
        metric: Str, its name; "" if there is no other in the picture.
        is_measured: Bool, whether the values stand there already.
    """
    label = f"threshold ({metric})" if metric else "threshold"
    style = "-" if is_measured else "--"
    for n, row in enumerate(rows):
        ends = [row.epochs - 0.3, row.epochs + 0.3]
        name = f"_{label}" if n else label
        axes.plot(ends, [row.threshold or 0.0] * 2, color="0.5", linestyle=style, label=name)
    if rows and not is_measured:
        values = [row.value for row in rows]
        axes.plot([row.epochs for row in rows], values, "x", color="0.5", label=metric)
