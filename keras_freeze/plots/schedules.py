"""A picture of a schedule: which layer groups train when, and at which learning rates."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_freeze.callbacks import FreezeScheduler
from keras_freeze.checks import ArgumentError, ArgumentTypeError, first_few
from keras_freeze.plots.style import (
    OVER_MARKS,
    STATES,
    figure_class,
    short_names,
    styled,
)
from keras_freeze.schedules import FreezeSchedule, SchedulePreview, ScheduleRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure, SubFigure

# Rates that differ by more than this factor get a logarithmic map.
_FACTOR = 3.0
# Rates below this part of the highest look alike: a curve may end at almost nothing.
_LOWEST = 1e-4
# So many triggers are written out, if they are no longer than that and stand so many points apart;
# others get letters and a key below, of so many lines at most.
_MAX_WRITTEN, _MAX_LENGTH, _GAP = 6, 22, 18.0
_MAX_KEYS = 12
# Points between two letters.
_LETTER_GAP = 8.0
_UNKNOWN: dict[str, Any] = {
    "facecolor": "none",
    "hatch": "...",
    "hatchcolor": "0.5",
    "edgecolor": "0.5",
}


@dataclasses.dataclass(frozen=True)
class _Part:
    """What is drawn between two moments.

    Attributes:
        begin: Float, the epochs that are done; None where that isn't known.
        rates: Rate of each group that trains; None where that isn't known.
        after: Str, what ended the part before; "" for nothing to write.
        unknown: Str, why rates aren't known.
    """

    begin: float | None
    rates: Mapping[str, float] | None
    after: str = ""
    unknown: str = ""


@dataclasses.dataclass(frozen=True)
class _Course:
    """All that is drawn.

    Attributes:
        groups: From input to head.
        parts: In order.
        end: Float, the epochs that are done at the end; None where that isn't known.
        ending: Str, what ends the last part; "" for the end of the fit.
        unit: Str, what rates are.
    """

    groups: tuple[str, ...]
    parts: tuple[_Part, ...]
    end: float | None
    ending: str = ""
    unit: str = "learning rate"


def schedule(
    source: Any,
    model: keras.Model | None = None,
    epochs: int | None = None,
    *,
    steps_per_epoch: int | None = None,
    ax: Axes | None = None,
) -> Figure | SubFigure:
    """Draw the layer groups over the epochs by their learning rates, the input at the bottom.

    With a model and epochs it is what will happen, without them what has happened. Above the
    transitions stands what ends the phase before. Where the beginning of a phase depends on
    metrics, phases are drawn side by side and not to scale, with a question mark where such a phase
    begins; what is decided only while the model trains is dotted.

    Args:
        source: A callback such as `GradualUnfreeze()`, before a fit with `model` and `epochs`, or
            after it. Or a `schedules.FreezeSchedule`, with these; a `schedules.SchedulePreview`; a
            `schedules.ScheduleRecord`, which is a callback's `record`; or the history of a fit with
            `log_details=True`, which has the rate at the end of each epoch, and no triggers.
        model: `keras.Model`, built. Defaults to None.
        epochs: Int, the epochs of the fit. Defaults to None.
        steps_per_epoch: Int, batches in an epoch, for phases that end after steps. Defaults to
            None, not known.
        ax: `matplotlib.axes.Axes` of yours, to draw into. Defaults to None, a new figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: if `source` is something else.
        ValueError: if the callback has not trained, or the history lacks the rates; as `preview`
            does, if the model does not fit the schedule.

    Example:
        >>> import keras_freeze as kf
        >>> net = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)]
        ... )
        >>> plan = kf.schedules.FreezeSchedule({0: "low", 2: None})
        >>> axes = kf.plots.schedule(plan, net, epochs=6).axes[0]
        >>> [text.get_text() for text in axes.get_yticklabels()], axes.get_xlabel()
        (['low', 'head'], 'epochs trained')
    """
    import matplotlib.pyplot as plt

    own: Figure | None = None
    course = _course_of(source, model, epochs, steps_per_epoch)
    if ax is None:
        size = (7.6, 2.0 + 0.24 * len(course.groups))
        with styled():
            own, ax = plt.subplots(figsize=size, layout="constrained", FigureClass=figure_class())
    times = [*(part.begin for part in course.parts), course.end]
    known = [time for time in times if time is not None]
    is_to_scale = len(known) == len(times)
    edges = np.array(known) if is_to_scale else np.arange(len(times), dtype="float64")
    _draw_rates(ax, course, edges)
    _draw_states(ax, course, edges)
    for place in np.arange(1, len(course.groups)) - 0.5:
        ax.axhline(place, color=ax.get_facecolor(), linewidth=1.2)
    keys = _write_triggers(ax, course, edges)
    if own is not None:
        own.set_figheight(own.get_figheight() + 0.16 * len(keys))
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(-0.5, len(course.groups) - 0.5)
    ax.set_yticks(range(len(course.groups)), short_names(course.groups))
    ax.tick_params("y", length=0)
    ax.grid(visible=False)
    if is_to_scale:
        from matplotlib.ticker import MaxNLocator

        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        title = "epochs trained"
    else:
        ax.set_xticks(edges, ["?" if time is None else f"{time:.3g}" for time in times])
        title = "epochs trained, not to scale"
    ax.set_xlabel("\n".join([title, *keys]), loc="left", multialignment="left")
    if ax.get_legend_handles_labels()[0]:
        # On the line of the axis's label, below its numbers.
        ax.legend(
            loc="upper right", bbox_to_anchor=(1, 0), borderaxespad=2.0, ncols=2, **OVER_MARKS
        )
    return ax.figure


def _course_of(
    source: Any, model: keras.Model | None, epochs: int | None, steps: int | None
) -> _Course:
    """Return what is to be drawn of a source."""
    is_plan = isinstance(source, (FreezeScheduler, FreezeSchedule)) and model is not None
    if is_plan and epochs is not None:
        return _of_preview(source.preview(model, epochs, steps_per_epoch=steps))
    if is_plan or isinstance(source, FreezeSchedule):
        name = "epochs" if is_plan else "model"
        rule = f"be given to draw what a {type(source).__name__} will do"
        raise ArgumentError("plots.schedule", name, rule, value=None)
    for name, value in (("model", model), ("epochs", epochs)):
        if value is not None:
            rule = "be left out for what has happened, or what has been planned already"
            received = f"{name}= beside a {type(source).__name__}"
            raise ArgumentError("plots.schedule", name, rule, received=received)
    if isinstance(source, SchedulePreview):
        return _of_preview(source)
    record = source.record if isinstance(source, FreezeScheduler) else source
    if isinstance(source, FreezeScheduler) and (record is None or not record.rows):
        raise ArgumentError(
            "plots.schedule",
            "source",
            "be a callback that has trained for an epoch, or come with a model and epochs",
            received=repr(source),
            advice="Pass model= and epochs= to draw what it will do.",
        )
    if isinstance(record, ScheduleRecord):
        return _of_record(record)
    log = getattr(source, "history", source)
    if isinstance(log, Mapping):
        return _of_history(log)
    rule = "be a callback, a FreezeSchedule, a SchedulePreview, a ScheduleRecord or a history"
    raise ArgumentTypeError("plots.schedule", "source", rule, value=source)


def _of_preview(preview: SchedulePreview) -> _Course:
    rate = preview.learning_rate
    rows = [row for row in preview.rows if row.is_reached]
    parts: list[_Part] = []
    if rows[0].epochs:
        parts.append(_Part(0.0, None, unknown="as the model's flags say"))
    for number, row in enumerate(rows):
        after = rows[number - 1].ends if number else ""
        rates = {n: m * (1.0 if rate is None else rate) for n, m in row.rates.items()}
        if row.decides_late:
            parts.append(_Part(row.epochs, None, after, "decided as it begins"))
        else:
            parts.append(_Part(row.epochs, rates, after))
    end, ending, last = preview.end, rows[-1].ends, float(preview.epochs)
    if len(rows) < len(preview.rows) or (end is not None and end >= last):
        end, ending = last, ""
    elif preview.is_open:
        parts.append(_Part(end, None, ending, "decided while it trains"))
        end, ending = last, ""
    unit = "multiple of the compiled rate" if rate is None else "learning rate"
    curves = list(dict.fromkeys(row.curve for row in rows if row.curve))
    if curves:
        unit += f", before {first_few(curves)}"
    if preview.rates_follow:
        unit += ", at first"
    return _Course(preview.groups[::-1], tuple(parts), end, ending, unit)


def _of_record(record: ScheduleRecord) -> _Course:
    unit = "multiple of the compiled rate" if record.are_multiples else "learning rate"
    parts = tuple(_Part(row.epochs, row.rates, row.after) for row in record.rows)
    return _Course(record.groups, parts, record.epochs, unit=unit)


def _of_history(log: Mapping[str, Sequence[float]]) -> _Course:
    sign = "learning_rate/"
    groups = tuple(name.removeprefix(sign) for name in log if name.startswith(sign))
    if not groups:
        raise ArgumentError(
            "plots.schedule",
            "source",
            "hold the learning rate of each group",
            received=f"a history of {', '.join(log) or 'nothing'}",
            advice="Pass the callback of that fit, or give it log_details=True before.",
        )
    epochs = len(log[f"{sign}{groups[0]}"])
    parts = []
    for epoch in range(epochs):
        rates = {name: log[f"{sign}{name}"][epoch] for name in groups}
        parts.append(_Part(float(epoch), {name: rate for name, rate in rates.items() if rate > 0}))
    return _Course(groups, tuple(parts), float(epochs))


def _draw_rates(ax: Axes, course: _Course, edges: np.ndarray) -> None:
    rates = np.full((len(course.groups), len(course.parts)), np.nan)
    for column, part in enumerate(course.parts):
        for row, name in enumerate(course.groups):
            rates[row, column] = (part.rates or {}).get(name, np.nan)
    values = np.unique(rates[np.isfinite(rates)])
    if not len(values):
        return
    rows = np.arange(len(course.groups) + 1) - 0.5
    norm = _norm(values)
    mesh = ax.pcolormesh(edges, rows, np.ma.masked_invalid(rates), cmap="viridis", norm=norm)
    bar = ax.figure.colorbar(mesh, ax=ax, label=course.unit, pad=0.02, aspect=30)
    bar.minorticks_off()
    bar.set_ticks(_ticks(values, norm))
    is_multiple = course.unit.startswith("multiple")
    bar.ax.yaxis.set_major_formatter(_short_multiple if is_multiple else _short_rate)


def _short_multiple(value: float, _: float | None = None) -> str:
    return f"{value:.3g}"


def _short_rate(value: float, _: float | None = None) -> str:
    """Write a learning rate as on an axis.

    Example:
        >>> _short_rate(0.001), _short_rate(0.00038), _short_rate(0.05)
        ('1e-3', '3.8e-4', '5e-2')
    """
    digits, _e, power = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def _norm(values: np.ndarray) -> Normalize:
    """Return how rates become colours: by their logarithm where they differ by factors."""
    from matplotlib.colors import LogNorm, Normalize

    low, high = float(values[0]), float(values[-1])
    if low == high:  # in the middle of the map
        return Normalize(0.5 * low, 1.5 * high or 1.0, clip=True)
    if high > _FACTOR * low:
        positive = float(values[values > 0][0])
        return LogNorm(max(positive, high * _LOWEST), high, clip=True)
    return Normalize(low, high, clip=True)


def _ticks(values: np.ndarray, norm: Normalize) -> list[float]:
    """Return rates to write beside the colours: those that there are, if they stand apart."""
    if len(values) == 1:
        return [float(values[0])]
    places = np.asarray(norm(values))
    if len(values) <= 6 and np.min(np.diff(places)) > 0.08:
        return [float(value) for value in values]
    return [float(norm.inverse(place)) for place in np.linspace(0, 1, 5)]


def _draw_states(ax: Axes, course: _Course, edges: np.ndarray) -> None:
    """Draw what is frozen, each time in one piece, and what isn't known."""
    label = "frozen"
    for place, name in enumerate(course.groups):
        begin: float | None = None
        for part, left in zip((*course.parts, None), edges, strict=True):
            is_frozen = part is not None and part.rates is not None and name not in part.rates
            if is_frozen and begin is None:
                begin = left
            elif not is_frozen and begin is not None:
                style = STATES["frozen"]
                ax.barh(place, left - begin, 1.0, begin, label=label, gid=name, **style)
                begin, label = None, "_again"
    drawn: set[str] = set()
    for part, left, right in zip(course.parts, edges[:-1], edges[1:], strict=True):
        if part.rates is None:
            middle, height = (len(course.groups) - 1) / 2, len(course.groups)
            label = f"_{part.unknown}" if part.unknown in drawn else part.unknown
            drawn.add(part.unknown)
            ax.barh(middle, right - left, height, left, label=label, gid="unknown", **_UNKNOWN)


def _write_triggers(ax: Axes, course: _Course, edges: np.ndarray) -> list[str]:
    """Mark the transitions, and write above them what ended the phase before.

    Returns:
        Lines that say what letters stand for; none where all is written out.
    """
    texts = [*(part.after for part in course.parts), course.ending]
    found = [(float(edge), text) for edge, text in zip(edges, texts, strict=True) if text]
    trained = [set(part.rates or ()) for part in course.parts]
    changes = [n for n in range(1, len(trained)) if trained[n] != trained[n - 1]]
    for place in sorted({edges[n] for n in changes} | {edge for edge, _ in found}):
        if edges[0] < place < edges[-1]:
            ax.axvline(place, color=ax.get_facecolor(), linewidth=1.2, gid="transition")
    if not found:
        return []
    letters = _letters([text for _, text in found])
    # In points, of which names and the scale of rates take a part.
    width = 0.85 * ax.get_window_extent().width * 72 / ax.figure.dpi
    scale = (edges[-1] - edges[0]) / width
    is_alone = len(letters) == 1 and len(found) > _MAX_WRITTEN
    is_short = len(found) <= _MAX_WRITTEN and max(map(len, letters)) <= _MAX_LENGTH
    gaps = np.diff([edge for edge, _ in found])
    keys: list[str] = []
    if is_alone:
        labels = [(found[0][0], f"{found[0][1]}, each")]
    elif is_short and min(gaps, default=np.inf) >= _GAP * scale:
        labels = found
    else:
        labels = _clustered([(edge, letters[text]) for edge, text in found], _LETTER_GAP * scale)
        keys = [f"{letter}: {text}" for text, letter in letters.items()]
    is_slanted = not is_alone and not keys
    above = ax.secondary_xaxis("top")
    above.set_xticks(
        [edge for edge, _ in labels],
        [text for _, text in labels],
        rotation=35 if is_slanted else 0,
        ha="left" if is_slanted else "center",
        va="baseline" if is_slanted else "bottom",
        rotation_mode="anchor",
        fontsize="small",
    )
    above.spines["top"].set_visible(False)
    more = len(keys) - _MAX_KEYS
    return keys if more <= 0 else [*keys[:_MAX_KEYS], f"and {more} more, in the callback's record"]


def _letters(texts: Sequence[str]) -> dict[str, str]:
    """Return a letter for each different text; numbers where there are more texts than letters."""
    every = list(dict.fromkeys(texts))
    if len(every) <= len(string.ascii_letters):
        return dict(zip(every, string.ascii_letters, strict=False))
    return {text: str(number) for number, text in enumerate(every, 1)}


def _clustered(labels: Sequence[tuple[float, str]], gap: float) -> list[tuple[float, str]]:
    """Put letters together that are too near to each other to be written side by side.

    Example:
        >>> _clustered([(1.0, "a"), (1.1, "b"), (5.0, "a")], gap=0.5)
        [(1.0, 'a,b'), (5.0, 'a')]
    """
    clusters: list[tuple[float, list[str]]] = []
    for place, text in labels:
        if clusters and place - clusters[-1][0] < gap:
            clusters[-1][1].append(text)
        else:
            clusters.append((place, [text]))
    return [(place, ",".join(texts)) for place, texts in clusters]
