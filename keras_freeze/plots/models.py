"""A picture of a model: its layer groups by parameters, and which of them train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from keras_freeze.groups import Backbone, Groups, picture_of
from keras_freeze.model_picture import check_model
from keras_freeze.plots.style import (
    OVER_MARKS,
    STATES,
    WIDE,
    figure_class,
    short_count,
    short_names,
    styled,
)
from keras_freeze.reports import ReportRow, parameter_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# What has no weights that could be trained.
_NOTHING: dict[str, Any] = {"facecolor": "none", "edgecolor": "0.5", "linewidth": 1}


def model(
    model: keras.Model,
    *,
    groups: Groups | None = None,
    backbone: Backbone | None = None,
    ax: Axes | None = None,
) -> Figure | SubFigure:
    """Draw the layer groups of a model, the input at the bottom, by parameters and state.

    Colour and hatch show what is frozen, frozen in part, adapted by LoRA, trainable, and new. At
    the end of a bar stands how many parameters a group has and, where only some train, how many do.

    Args:
        model: `keras.Model`, built.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        backbone: What is pretrained, as for `layer_groups`. Defaults to None, to be found.
        ax: `matplotlib.axes.Axes` of yours, to draw into. Defaults to None, a new figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: if `model` is not a model.
        ValueError: if the model is not built, or an argument does not fit it.

    Example:
        >>> import keras_freeze as kf
        >>> net = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)]
        ... )
        >>> result = kf.freeze(net, layers=["low"])
        >>> axes = kf.plots.model(net).axes[0]
        >>> [text.get_text() for text in axes.get_yticklabels()]
        ['low', 'head']
    """
    import matplotlib.pyplot as plt

    check_model("plots.model", model)
    picture = picture_of(model, groups, backbone)
    rows = parameter_report(model, groups=groups, backbone=backbone).rows
    part = picture.pretrained
    is_assumed = groups is None and part is not None and part.is_assumed
    labels = [group.label for group in picture.groups]
    if ax is None:
        size = (min(7.2, 5.0 + 0.08 * max(map(len, labels))), 1.2 + 0.26 * len(rows))
        with styled():
            _, ax = plt.subplots(figsize=size, layout="constrained", FigureClass=figure_class())
    drawn: set[str] = set()
    for place, row in enumerate(rows):
        is_new = row is rows[-1]
        label = state = _state(row)
        if is_new and state != "nothing to train":
            label = "new" if state == "trainable" else f"new, {state}"
            label += " (assumed)" if is_assumed else ""
        style = _NOTHING if state == "nothing to train" else dict(STATES[state])
        if is_new and style is not _NOTHING:
            # What is new keeps its colour; its hatch says what of it is frozen.
            style = {**STATES["new"], **({} if state == "trainable" else _hatch(state))}
        ax.barh(place, row.total_params, label=f"_{label}" if label in drawn else label, **style)
        drawn.add(label)
        ax.annotate(
            _count(row),
            (row.total_params, place),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    _set_axis(ax, [row.total_params for row in rows])
    ax.set_yticks(range(len(rows)), short_names(labels))
    ax.tick_params("y", length=0)
    ax.grid(visible=False, axis="y")
    ax.margins(y=0.6 / len(rows))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, **OVER_MARKS)
    return ax.figure


def _state(row: ReportRow) -> str:
    """Return the state of a group, one of `STATES` or "nothing to train"."""
    if row.state == "-":
        return "nothing to train"
    if row.state == "partly frozen (LoRA)":
        return "LoRA"
    return row.state.partition(" (")[0]


def _hatch(state: str) -> dict[str, str]:
    return {"hatch": STATES[state].get("hatch", ""), "hatchcolor": "white"}


def _count(row: ReportRow) -> str:
    total = short_count(row.total_params)
    if row.state in ("-", "frozen", "trainable"):
        return total
    return f"{total}, of which {short_count(row.trainable_params)} train"


def _set_axis(ax: Axes, counts: list[int]) -> None:
    """Make an axis on which the smallest group can be seen beside the largest."""
    own = [count for count in counts if count] or [1]
    if max(own) > WIDE * min(own):
        ax.set_xscale("log")
        # A bar on such an axis has no natural beginning: a little below the smallest.
        ax.set_xlim(min(own) / 3, max(own) * (max(own) / min(own)) ** 0.3)
        ax.set_xlabel("parameters (logarithmic)")
    else:
        ax.set_xlim(0, 1.35 * max(own))
        ax.set_xlabel("parameters")
    ax.xaxis.set_major_formatter(short_count)
    ax.xaxis.set_minor_formatter("")
