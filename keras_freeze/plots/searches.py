"""Pictures of a search: which freeze depth scores best, and what it costs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_freeze.plots.style import (
    FROZEN_COLOUR,
    MAX_WIDTH,
    OVER_MARKS,
    figure_class,
    palette,
    short_count,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keras_freeze.tuning.trial_record import TrialRecord

# The most depths at which each has room for a number.
MAX_MARKS = 12
_BEST = "#D55E00"
_FRONT = "#009E73"
_OTHERS = "#0072B2"


@dataclasses.dataclass(frozen=True)
class _Search:
    """What is drawn.

    Attributes:
        rows: Completed trials, the best first.
        records: Records by trial id.
        objective: String.
        direction: "min" or "max".
    """

    rows: list[dict[str, Any]]
    records: dict[str, TrialRecord]
    objective: str
    direction: str

    @property
    def is_halved(self) -> bool:
        """Bool, whether trials have different epochs, so that scores can't be averaged."""
        return len({row["values"].get("tuner/epochs") for row in self.rows}) > 1

    @property
    def best(self) -> dict[str, Any]:
        return self.rows[0]


def search(search: Any, *, rate: str | None = None) -> Figure:
    """Draw a search: the score by freeze depth, by parameters, by time, and epoch by epoch.

    The depth panel shows every training, the mean and the standard deviation at each depth (not
    of Hyperband, where trials have different epochs), and behind them how many parameters train
    there. In the next two, a line joins the trials that no other beats in both score and cost (the
    Pareto front). The best trial is a star everywhere. Where a learning rate was searched as well,
    a last panel is a map of depth against it.

    Args:
        search: A tuner of `keras_freeze.tuning`, or the folder of a search on disk.
        rate: String, the hyperparameter of the map. Defaults to a learning rate, or the first
            number with "rate" in its name, with several values; without one there is no map.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if no trial is complete, or there is no such hyperparameter.
    """
    found = _read(search)
    against = _rate_of(found, rate)
    figure, panels = _panels(has_map=against is not None)
    _draw_depth(panels["depth"], found)
    _draw_front(panels["parameters"], found, "trainable_params", "trainable parameters")
    _draw_front(panels["time"], found, "seconds", "training time (s)")
    _draw_curves(panels["curves"], found)
    if against is not None:
        _draw_map(panels["map"], found, against)
    return figure


def _read(search: Any) -> _Search:
    from keras_freeze.tuning import results, search_folder, trial_record

    is_folder = isinstance(search, (str, os.PathLike))
    folder = Path(search if is_folder else search.project_dir)
    about = search_folder.about(folder)
    done = results.best_first(results.rows(folder), about["direction"])
    rows = [row for row in done if row["trainable_params"] is not None]
    seconds = {row["trial_id"]: row["seconds"] for row in rows}
    for row in sorted(rows, key=lambda row: row["values"].get("tuner/epochs", 0)):
        # Of Hyperband, where a trial may resume another.
        row["seconds"] += seconds.get(row["values"].get("tuner/trial_id"), 0.0)
        seconds[row["trial_id"]] = row["seconds"]
    if not rows:
        raise ValueError(
            "plots.search(search=...) must have at least one complete trial whose callbacks "
            f"were called. Received: {str(folder)!r}, with none. Run its search."
        )
    by_id = {record.trial_id: record for record in trial_record.read_all(folder)}
    return _Search(rows, by_id, about["objective"], about["direction"])


def _rate_of(found: _Search, rate: str | None) -> str | None:
    values: dict[str, set[Any]] = {}
    for row in found.rows:
        for name, value in row["values"].items():
            values.setdefault(name, set()).add(value)
    if rate is not None and rate not in values:
        raise ValueError(
            f"plots.search(rate=...) must be a hyperparameter of the search. Received: {rate!r}. "
            f"Available: {', '.join(values)}."
        )
    if rate is not None and not _are_numbers(values[rate]):
        raise ValueError(
            f"plots.search(rate=...) must be a hyperparameter of numbers. Received: {rate!r}."
        )
    numbers = [name for name, own in values.items() if len(own) > 1 and _are_numbers(own)]
    likely = [name for sign in ("learning_rate", "lr", "rate") for name in numbers if sign in name]
    return rate or next(iter(likely), None)


def _are_numbers(values: set[Any]) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def _panels(has_map: bool) -> tuple[Figure, dict[str, Axes]]:
    import matplotlib.pyplot as plt

    rows: list[Any] = [
        ["depth", "parameters"],
        ["time", "curves"],
        *([["map", "map"]] if has_map else []),
    ]
    size = (MAX_WIDTH, 0.4 + 3.2 * len(rows))
    with styled():
        figure, panels = plt.subplot_mosaic(
            rows, layout="constrained", figsize=size, FigureClass=figure_class()
        )
    return figure, panels


def _depth(row: dict[str, Any]) -> float:
    depth = row["freeze_depth"]
    return float(row["frozen_groups"] if depth is None else depth)


def _draw_depth(axes: Axes, found: _Search) -> None:
    depths = sorted({_depth(row) for row in found.rows})
    by_depth = [[r for r in found.rows if _depth(r) == depth] for depth in depths]
    behind = axes.twinx()
    behind.set_zorder(axes.get_zorder() - 1)
    axes.patch.set_visible(False)
    width = 0.7 * min(np.diff(depths), default=1.0)
    counts = [np.mean([row["trainable_params"] for row in own]) for own in by_depth]
    behind.bar(depths, counts, width, color=FROZEN_COLOUR, alpha=0.7)
    behind.yaxis.set_major_formatter(short_count)
    behind.set_ylabel("trainable parameters (bars)")
    behind.grid(visible=False)
    behind.spines["right"].set_visible(True)
    pairs = [(_depth(row), score) for row in found.rows for score in _scores([row], found)]
    _dots(axes, [depth for depth, _ in pairs], [score for _, score in pairs])
    axes.set_title("score by depth, each training")
    if not found.is_halved:
        scores = [_scores(own, found) for own in by_depth]
        means = [np.mean(own) for own in scores]
        spreads = [float(np.std(own, ddof=1)) if len(own) > 1 else 0.0 for own in scores]
        style: dict[str, Any] = {"color": palette()[-1], "marker": "o", "ms": 4, "lw": 1.2}
        axes.errorbar(depths, means, spreads, capsize=3, **style)
        axes.set_title("score by depth: mean ± std and each training")
    _star(axes, _depth(found.best), found.best["score"])
    axes.set_xlabel("freeze depth")
    axes.set_ylabel(found.objective)
    _mark_depths(axes, depths)


def _mark_depths(axes: Axes, depths: Sequence[float]) -> None:
    if len(set(depths)) <= MAX_MARKS:
        axes.set_xticks(sorted(set(depths)))


def _scores(rows: Sequence[dict[str, Any]], found: _Search) -> list[float]:
    """Return the scores of all executions of these trials."""
    return [score for row in rows for score in found.records[row["trial_id"]].scores]


def _draw_front(axes: Axes, found: _Search, cost: str, label: str) -> None:
    costs = [float(row[cost]) for row in found.rows]
    scores = [float(row["score"]) for row in found.rows]
    _dots(axes, costs, scores)
    front = pareto(costs, scores, found.direction)
    x, y = [costs[n] for n in front], [scores[n] for n in front]
    axes.plot(x, y, color=_FRONT, marker="o", ms=5, lw=1.4, label="Pareto front")
    _star(axes, float(found.best[cost]), found.best["score"])
    axes.set_xlabel(label)
    axes.set_ylabel(found.objective)
    axes.set_title(f"score by {label}")
    if cost == "trainable_params":
        axes.xaxis.set_major_formatter(short_count)
    axes.legend(loc="best", **OVER_MARKS)


def pareto(costs: Sequence[float], scores: Sequence[float], direction: str) -> list[int]:
    """Return which trials no other beats in cost and score, the cheapest first.

    Example:
        >>> pareto([1.0, 2.0, 3.0], [0.5, 0.4, 0.9], "max")
        [0, 2]
    """
    sign = -1.0 if direction == "max" else 1.0
    order = sorted(range(len(costs)), key=lambda n: (costs[n], sign * scores[n]))
    front: list[int] = []
    for n in order:
        if not front or sign * scores[n] < sign * scores[front[-1]]:
            front.append(n)
    return front


def _draw_curves(axes: Axes, found: _Search) -> None:
    from matplotlib.ticker import MaxNLocator

    best = found.best["trial_id"]
    faint = max(0.08, min(0.6, 8 / len(found.rows)))
    for row in sorted(found.rows, key=lambda row: row["trial_id"] == best):
        execution = found.records[row["trial_id"]].executions[0]
        values = execution.history.get(found.objective)
        if values is None:
            continue
        is_best = row["trial_id"] == best
        epochs = execution.initial_epoch + 1 + np.arange(len(values))
        mark = "o" if len(values) == 1 else ""
        style: dict[str, Any] = {"color": _OTHERS, "alpha": faint, "lw": 1, "marker": mark, "ms": 4}
        if is_best:
            label = f"best trial (depth {_depth(row):g})"
            style = {"color": _BEST, "lw": 2, "marker": mark, "label": label}
            for part in execution.parts[1:]:
                axes.axvline(part.epoch, color="0.5", linestyle=":", lw=1, gid="transition")
        axes.plot(epochs, values, **style)
    axes.set_xlabel("epochs trained")
    axes.set_ylabel(found.objective)
    axes.set_title("learning curves")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", **OVER_MARKS)


def _draw_map(axes: Axes, found: _Search, rate: str) -> None:
    rows = [row for row in found.rows if rate in row["values"]]
    x, y = [_depth(row) for row in rows], [float(row["values"][rate]) for row in rows]
    scores = [row["score"] for row in rows]
    shades = "viridis" if found.direction == "max" else "viridis_r"
    size = max(30, min(260, 3000 / len(rows)))
    points = axes.scatter(x, y, size, c=scores, cmap=shades, edgecolor="white", linewidth=0.6)
    axes.figure.colorbar(points, ax=axes, label=found.objective)
    if rate in found.best["values"]:
        _star(axes, _depth(found.best), float(found.best["values"][rate]))
    if min(y) > 0 and max(y) / min(y) >= 10:
        axes.set_yscale("log")
    axes.margins(0.15)
    _mark_depths(axes, x)
    axes.set_xlabel("freeze depth")
    axes.set_ylabel(rate.replace("_", " "))
    axes.set_title(f"depth against {rate.replace('_', ' ')}")


def _dots(axes: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    axes.plot(x, y, "o", color=_OTHERS, ms=5, alpha=max(0.25, min(0.7, 20 / len(x))), lw=0)


def _star(axes: Axes, x: float, y: float) -> None:
    axes.plot([x], [y], "*", color=_BEST, ms=15, markeredgecolor="white", zorder=5, gid="best")
