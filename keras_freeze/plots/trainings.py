"""Pictures of a training: its metrics, and how much of the model trains, epoch by epoch.

The callbacks of this package write `trainable_params` and `non_trainable_params` into the
history of a `fit`; these functions draw them beside a metric and mark the transitions.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import keras
import numpy as np

from keras_freeze.plots.style import (
    COLOURS,
    FROZEN_COLOUR,
    MAX_WIDTH,
    OVER_MARKS,
    figure_class,
    mark,
    palette,
    short_count,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

History = Any  # `keras.callbacks.History`, or its `history`: a mapping from name to values


def training(
    history: History, *, metric: str | None = None, ax: Axes | None = None
) -> Figure | SubFigure:
    """Draw one training: a metric above, trainable and frozen parameters below.

    Values of an epoch are drawn at its end. Dotted lines mark the transitions.

    Args:
        history: `keras.callbacks.History` as `fit` returns it, or its `history` dict, of a fit
            with `GradualUnfreeze` or another callback of this package.
        metric: String. Which metric, drawn for training and, where there is one, validation.
            Defaults to `"accuracy"`, or `"loss"` where there is no accuracy.
        ax: `matplotlib.axes.Axes` of yours, to draw the metric alone into it. Defaults to None, a
            new figure.

    Returns:
        The `matplotlib.figure.Figure`. It is pyplot's current one: a notebook shows it at the end
        of the cell, `plt.savefig` and its own `savefig` write it to a file.

    Raises:
        ValueError: if the history lacks the metric or the parameter counts.

    Example:
        >>> log = {"loss": [2.0, 1.0], "trainable_params": [4, 19]}
        >>> log["non_trainable_params"] = [15, 0]
        >>> figure = training(log)
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'parameters']
    """
    log = _log(history)
    metric = metric or ("accuracy" if "accuracy" in log else "loss")
    _require(log, metric, "trainable_params", "non_trainable_params")
    if ax is not None:
        _draw_training(ax, log, metric)
        ax.set_xlabel("epochs trained")
        return ax.figure
    figure, ((upper,), (lower,)) = _panels(columns=1)
    _draw_training(upper, log, metric)
    _draw_counts(lower, log)
    mark(lower, transitions(log))
    return figure


def comparison(
    columns: Mapping[str, Mapping[str, History | Sequence[History]] | History | Sequence[History]],
    *,
    metric: str = "val_accuracy",
) -> Figure:
    """Draw several ways of training side by side, one column for each setting.

    Args:
        columns: Mapping from a column's title to a mapping from a line's label to a history, or
            to several histories of equal length (of different seeds, say): then the line is
            their mean and a band goes from the lowest to the highest. For a single column without
            a title, the mapping from labels.
        metric: String. Which metric. Defaults to `"val_accuracy"`.

    Returns:
        A `matplotlib.figure.Figure`: the metric above, the parameters that train below.

    Raises:
        ValueError: if a history lacks the metric or the parameter counts.

    Example:
        >>> log = {"loss": [2.0, 1.0], "trainable_params": [4, 19]}
        >>> figure = comparison({"rate 0.1": {"gradual": log}}, metric="loss")
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'trainable parameters']
    """
    is_flat = any(_is_arm(value) for value in columns.values())
    titled: Mapping[str, Any] = {"": columns} if is_flat else columns
    read = [
        {label: _several(histories, metric) for label, histories in arms.items()}
        for arms in titled.values()
    ]
    labels = list(dict.fromkeys(label for arms in read for label in arms))
    colours = dict(zip(labels, itertools.cycle(palette())))  # a label's is the same everywhere
    figure, (uppers, lowers) = _panels(columns=len(titled))
    for title, arms, upper, lower in zip(titled, read, uppers, lowers, strict=True):
        for label, logs in arms.items():
            _draw_metric(upper, [log[metric] for log in logs], label, colours[label])
            # The first is the widest, so that lines in the same place can all be seen.
            width = 1.6 * (len(labels) - labels.index(label))
            _draw_steps(lower, logs[0]["trainable_params"], colours[label], width)
            for axes in (upper, lower):
                mark(axes, transitions(logs[0]), colours[label])
        upper.set_title(title)
    uppers[0].set_ylabel(metric.replace("val_", "validation ").replace("_", " "))
    lowers[0].set_ylabel("trainable parameters")
    named = [zip(*upper.get_legend_handles_labels(), strict=True) for upper in uppers]
    handles = {label: handle for column in reversed(named) for handle, label in column}
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside upper center",
        ncols=len(labels),
        frameon=False,
    )
    return figure


def transitions(history: History) -> list[int]:
    """Return the epochs (0-based) that begin with another number of trainable parameters.

    Args:
        history: `keras.callbacks.History`, or its `history` dict.

    Example:
        >>> transitions({"trainable_params": [4, 4, 19, 19, 23]})
        [2, 4]
    """
    counts = _log(history)["trainable_params"]
    return [epoch for epoch in range(1, len(counts)) if counts[epoch] != counts[epoch - 1]]


def _log(history: History) -> Mapping[str, Sequence[float]]:
    if isinstance(history, keras.callbacks.Callback) and not hasattr(history, "history"):
        history = getattr(history.model, "history", None)  # that of its last fit
    log = history if isinstance(history, Mapping) else getattr(history, "history", None)
    if log is None:
        raise ValueError(
            "The history must be what `fit` returned, or a callback after its fit. Received: "
            f"{history!r}."
        )
    return cast(Mapping[str, Sequence[float]], log)


def _is_arm(value: Any) -> bool:
    """Tell whether something is a history, or several, and no mapping from labels to them."""
    if not isinstance(value, Mapping):
        return True
    lists = [own for own in value.values() if isinstance(own, Sequence) and own]
    return any(not (isinstance(own[0], Mapping) or hasattr(own[0], "history")) for own in lists)


def _several(histories: History | Sequence[History], metric: str) -> list[Mapping[str, Any]]:
    several = histories if isinstance(histories, Sequence) else [histories]
    for history in several:
        _require(_log(history), metric, "trainable_params")
    return [_log(history) for history in several]


def _require(log: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if name not in log:
            raise ValueError(
                f"The history must hold {name!r}. Received: a history of {', '.join(log)}. "
                "Parameter counts are there when the fit had a callback of keras_freeze; "
                "metrics are those given to compile, with val_ in front those of "
                "validation_data."
            )


def _panels(columns: int) -> tuple[Figure, Any]:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    with styled():
        figure, panels = plt.subplots(
            2, columns, squeeze=False, sharex=True, sharey="row", layout="constrained",
            figsize=(min(2 + 4.5 * columns, MAX_WIDTH), 5.4), height_ratios=(3, 2),
            FigureClass=figure_class(),
        )  # fmt: skip
    for axes in panels[1]:
        axes.set_xlabel("epochs trained")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(short_count)
    return figure, panels


def _draw_training(axes: Axes, log: Mapping[str, Sequence[float]], metric: str) -> None:
    """Draw a metric of one training, and of its validation where there is one."""
    for name, label, colour in (
        (metric, "training", COLOURS[0]),
        (f"val_{metric}", "validation", COLOURS[1]),
    ):
        if name in log:
            _draw_metric(axes, [log[name]], label, colour)
    mark(axes, transitions(log))
    axes.set_ylabel(metric)
    axes.legend(loc="best", **OVER_MARKS)


def _draw_counts(axes: Axes, log: Mapping[str, Sequence[float]]) -> None:
    """Draw how the model's parameters divide into trainable and frozen ones."""
    edges = np.arange(len(log["trainable_params"]) + 1)
    trainable, frozen = (np.array(log[f"{kind}_params"]) for kind in ("trainable", "non_trainable"))
    axes.stairs(trainable, edges, fill=True, color=COLOURS[0], label="trainable")
    total = trainable + frozen
    axes.stairs(total, edges, baseline=trainable, fill=True, color=FROZEN_COLOUR, label="frozen")
    axes.set_ylabel("parameters")
    axes.set_ylim(0, 1.25 * total.max())  # room for the legend
    axes.legend(loc="upper left", ncols=2, **OVER_MARKS)


def _draw_metric(axes: Axes, values: list[Sequence[float]], label: str, colour: str) -> None:
    ends = 1 + np.arange(len(values[0]))
    axes.plot(ends, np.mean(values, axis=0), marker="o", markersize=3, color=colour, label=label)
    if len(values) > 1:
        axes.fill_between(
            ends, np.min(values, axis=0), np.max(values, axis=0), color=colour, alpha=0.15, lw=0
        )


def _draw_steps(axes: Axes, counts: Sequence[float], colour: str, width: float) -> None:
    axes.stairs(counts, np.arange(len(counts) + 1), baseline=None, color=colour, linewidth=width)
    axes.set_ylim(bottom=0)
