"""Pictures of what the logs tell of each layer group, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from keras_freeze.callbacks import FreezeScheduler
from keras_freeze.checks import ArgumentError, ArgumentTypeError
from keras_freeze.plots.style import (
    OVER_MARKS,
    WIDE,
    figure_class,
    in_order,
    mark,
    short_names,
    styled,
)
from keras_freeze.plots.trainings import transitions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_Log = Mapping[str, Sequence[float]]
Quantity = Literal["gradient_norm", "update_ratio"]

_MARKERS = "osD^vP*X"
# So many names stand below each other in a legend.
_MAX_NAMES = 36
# With more lines than this, markers are small.
_MANY = 10
_TITLES = {
    "weight_change": "change of the weights since the\nbeginning, relative to their norm",
    "gradient_norm": "norm of the gradients",
    "update_ratio": "change of the weights in the\nepoch, relative to their norm",
}


def weight_change(source: Any, *, ax: Axes | None = None) -> Figure | SubFigure:
    """Draw how far each layer group has moved from its first values, epoch by epoch.

    A group that hardly moves need not have been unfrozen. What has not moved at all is drawn at 0.

    Args:
        source: `keras.callbacks.History`, or its `history` dict, of a fit whose callback had
            `log_details=["weight_change"]`; or that callback, after the fit.
        ax: `matplotlib.axes.Axes` of yours, to draw into. Defaults to None, a new figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: if `source` is something else.
        ValueError: if the history lacks the values.

    Example:
        >>> log = {"weight_change/low": [0.0, 0.01], "weight_change/head": [0.2, 0.3]}
        >>> axes = weight_change(log).axes[0]
        >>> [line.get_label() for line in axes.lines]
        ['low', 'head']
    """
    log = _log_of("weight_change", source)
    (axes,) = [ax] if ax is not None else _panels(1, _groups(log, "weight_change"))
    _draw(axes, log, "weight_change")
    axes.set_xlabel("epochs trained")
    _draw_legend(axes, is_own=ax is None)
    return axes.figure


def gradients(
    source: Any, *, quantity: Quantity | None = None, ax: Axes | None = None
) -> Figure | SubFigure:
    """Draw the gradients of each layer group above, and how far they moved its weights below.

    Groups that are frozen have neither, and a gap in their line.

    Args:
        source: `keras.callbacks.History`, or its `history` dict, of a fit whose callback had
            `log_details=["gradients"]`; or that callback, after the fit.
        quantity: `"gradient_norm"` or `"update_ratio"`, to draw one of the two. Defaults to None,
            for both, or for the gradients where `ax` is given.
        ax: `matplotlib.axes.Axes` of yours, to draw into. Defaults to None, a new figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: if `source` is something else.
        ValueError: if the history lacks the values, or `quantity` is neither.

    Example:
        >>> log = {"gradient_norm/low": [float("nan"), 0.1], "gradient_norm/head": [2.0, 1.0]}
        >>> log |= {"update_ratio/low": [float("nan"), 1e-3], "update_ratio/head": [0.1, 0.05]}
        >>> [axes.get_yscale() for axes in gradients(log).axes]
        ['linear', 'log']
    """
    if quantity not in (None, "gradient_norm", "update_ratio"):
        rule = 'be "gradient_norm", "update_ratio" or None'
        raise ArgumentError("plots.gradients", "quantity", rule, value=quantity)
    log = _log_of("gradients", source)
    names: list[Quantity] = ["gradient_norm", "update_ratio"]
    if quantity is not None or ax is not None:
        names = [quantity or "gradient_norm"]
    panels = [ax] if ax is not None else _panels(len(names), _groups(log, names[0]))
    for axes, name in zip(panels, names, strict=True):
        _draw(axes, log, name)
    panels[-1].set_xlabel("epochs trained")
    _draw_legend(panels[0], is_own=ax is None)
    return panels[0].figure


def _log_of(detail: str, source: Any) -> _Log:
    """Return the values of a fit by name; raise if they are not those of a detail."""
    owner = f"plots.{detail}"
    given = getattr(source, "model", None) if isinstance(source, FreezeScheduler) else source
    history = getattr(given, "history", given)  # of a model it is that of its last fit
    log = getattr(history, "history", history)
    if isinstance(source, FreezeScheduler) and not isinstance(log, Mapping):
        raise ArgumentError(owner, "source", "have trained a model", received=repr(source))
    if not isinstance(log, Mapping):
        rule = "be a history, or a callback of this package"
        raise ArgumentTypeError(owner, "source", rule, value=source)
    signs = ("gradient_norm", "update_ratio") if detail == "gradients" else (detail,)
    if not all(_groups(log, sign) for sign in signs):
        raise ArgumentError(
            owner,
            "source",
            f"hold {signs[0]}/<group>",
            received=f"a history of {', '.join(log) or 'nothing'}",
            advice=f'Train with a callback that has log_details=["{detail}"].',
        )
    return log


def _groups(log: _Log, sign: str) -> list[str]:
    return [name.removeprefix(f"{sign}/") for name in log if name.startswith(f"{sign}/")]


def _panels(count: int, groups: Sequence[str]) -> list[Axes]:
    import matplotlib.pyplot as plt

    height = max(3.4 if count == 1 else 5.4, 0.6 + 0.155 * min(len(groups), _MAX_NAMES))
    with styled():
        _, panels = plt.subplots(
            count, squeeze=False, sharex=True, layout="constrained", figsize=(8.2, height),
            FigureClass=figure_class(),
        )  # fmt: skip
    return [axes for (axes,) in panels]


def _draw(axes: Axes, log: _Log, sign: str) -> None:
    """Draw the values of one kind, a line for each group, in colours from input to head."""
    from matplotlib.ticker import MaxNLocator

    groups = _groups(log, sign)
    every = [log[f"{sign}/{name}"] for name in groups]
    colours = in_order(len(groups), axes)
    for n, (name, values) in enumerate(zip(short_names(groups), every, strict=True)):
        axes.plot(
            1 + np.arange(len(values)),
            values,
            color=colours[n],
            marker=_MARKERS[n % len(_MARKERS)],
            markersize=4 if len(groups) <= _MANY else 2,
            linewidth=1.2,
            label=name,
        )
    positive = [v for values in every for v in values if math.isfinite(v) and v > 0]
    if positive and max(positive) > WIDE * min(positive):
        if any(value == 0 for values in every for value in values):
            lowest = 10.0 ** math.floor(math.log10(min(positive)))
            axes.set_yscale("symlog", linthresh=lowest, linscale=0.4)
        else:
            axes.set_yscale("log")
    if sign == "weight_change":
        axes.set_ylim(bottom=0)
    if "trainable_params" in log:
        mark(axes, transitions(log))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(_TITLES[sign])


def _draw_legend(axes: Axes, *, is_own: bool) -> None:
    """Name the groups beside the axes, or all panels of a figure of our own, the input below."""
    handles, names = axes.get_legend_handles_labels()
    style: dict[str, Any] = {"fontsize": "small", "labelspacing": 0.25, **OVER_MARKS}
    columns = math.ceil(len(names) / _MAX_NAMES)
    if is_own:
        figure: Any = axes.figure
        style |= {"loc": "outside right upper"}
        figure.legend(handles[::-1], names[::-1], ncols=columns, **style)
    else:
        style |= {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        axes.legend(handles[::-1], names[::-1], ncols=columns, **style)
