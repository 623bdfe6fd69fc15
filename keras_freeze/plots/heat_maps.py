"""Pictures of heat maps: over images, under time series, and behind the words of a text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_freeze.checks import ArgumentError, ArgumentTypeError, is_int
from keras_freeze.explain import HeatMap, positions_in
from keras_freeze.plots.style import COLOURS, figure_class, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_OWNER = "plots.heatmap"
# Samples that are drawn where none are named.
_SAMPLES = 4
# Colours of an overlay, and its opacity where the value is 0 and where it is 1.
_OVERLAY, _FAINT, _STRONG = "inferno", 0.35, 0.75
# The colour of what matters along a series or a text, laid over the background.
_MARK = "#D55E00"
# Inches of a figure, points of the letters of a text, and a letter's width in letters' sizes.
_WIDTH, _LETTERS, _LETTER_WIDTH = 6.4, 9.0, 0.62
# Inches of a line of text, lines for what stands above it, and a series' height in strips.
_LINE, _ABOVE, _STRIPS = 0.26, 1.1, 5.0


def heatmap(
    x: Any,
    maps: HeatMap | Mapping[str, HeatMap],
    *,
    tokens: Sequence[str] | Sequence[Sequence[str]] | None = None,
    samples: int | Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Figure | SubFigure:
    """Draw heat maps on their inputs; several side by side, as before and after fine-tuning.

    Colours go from 0 to the largest value of each sample and map. An image is drawn in grey under
    its map, a time series with a strip below it for each map, and a text with its tokens coloured.

    Args:
        x: The inputs, as they were given to `explain.heatmap`. Images may be as they look, before
            a model's preprocessing, where only their values differ.
        maps: `explain.HeatMap`, or a mapping from a title to one, all of these inputs.
        tokens: For tokens their texts: strings of the one sample, or a sequence of strings for each
            sample of `x`; where there are fewer than ids, the rest is padding and left out.
            Defaults to None, the ids.
        samples: Int or ints, which samples. Defaults to None, the first four.
        ax: `matplotlib.axes.Axes` of yours, to draw one sample with one map into; of a series there
            may be several maps. Defaults to None, a new figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: if `maps` are no heat maps.
        ValueError: if they don't fit the inputs, if there is no such sample, or if more is to be
            drawn into `ax` than fits.

    Example:
        >>> from keras_freeze.explain import HeatMap
        >>> values = np.array([[0.0, 2.0, 1.0]])
        >>> found = HeatMap(values, np.ones(1), (1,), "embedding", "gradient x activation", "net")
        >>> figure = heatmap(np.array([[4, 7, 9]]), found, tokens=["not", "bad", "."])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['not', 'bad', '.']
    """
    named = maps if isinstance(maps, Mapping) else {"": maps}
    if not named or not all(isinstance(one, HeatMap) for one in named.values()):
        rule = "be an explain.HeatMap, or a mapping from titles to several"
        raise ArgumentTypeError(_OWNER, "maps", rule, value=maps)
    kind, leaf = positions_in(_OWNER, x)
    array = np.asarray(keras.tree.flatten(x)[leaf])
    chosen = _chosen(samples, len(array))
    for one in named.values():
        if len(one.values) != len(array) or not _fits(one.values, array, kind):
            rule = "be those of x"
            received = f"values of shape {one.values.shape} for x of shape {array.shape}"
            raise ArgumentError(_OWNER, "maps", rule, received=received)
    most = math.inf if kind == "series" else 1
    if ax is not None and (len(chosen) > 1 or len(named) > most):
        rule = "be left out where several panels are drawn"
        received = f"{len(chosen)} sample(s) and {len(named)} heat map(s)"
        raise ArgumentError(_OWNER, "ax", rule, received=received, advice="Pass samples=0, say.")
    if tokens is not None and kind != "tokens":
        raise ArgumentError(_OWNER, "tokens", "be left out unless x are tokens", value=tokens)
    if kind == "image":
        return _draw_images(array, named, chosen, ax)
    if kind == "series":
        return _draw_series(array, named, chosen, ax)
    return _draw_texts(_words(array, tokens), named, chosen, ax)


def _chosen(samples: Any, count: int) -> list[int]:
    if samples is None:
        return list(range(min(count, _SAMPLES)))
    given = [samples] if is_int(samples) else list(np.atleast_1d(samples))
    if not given or not all(is_int(n) and 0 <= n < count for n in given):
        raise ArgumentError(_OWNER, "samples", f"be from 0 to {count - 1}", value=samples)
    return [int(n) for n in given]


def _fits(values: np.ndarray, array: np.ndarray, kind: str) -> bool:
    """Tell whether values have the positions of inputs, channels last or first."""
    positions = values.shape[1:]
    if len(positions) != (2 if kind == "image" else 1):
        return False
    if kind == "tokens":
        return positions == array.shape[1:]
    return positions in (array.shape[1:-1], array.shape[2:])


def _channels_last(array: np.ndarray, values: np.ndarray) -> np.ndarray:
    return array if array.shape[1:-1] == values.shape[1:] else np.moveaxis(array, 1, -1)


def _what(found: HeatMap, sample: int) -> str:
    """Say what was explained of a sample."""
    score = f"score {found.scores[sample]:.3g}"
    return score if found.targets is None else f"unit {found.targets[sample]}, {score}"


# Images ---------------------------------------------------------------------------------


def _draw_images(
    array: np.ndarray, named: Mapping[str, HeatMap], chosen: list[int], ax: Axes | None
) -> Figure | SubFigure:
    import matplotlib.cm
    import matplotlib.pyplot as plt

    images = _shown(_channels_last(array, next(iter(named.values())).values))
    if ax is not None:
        ((title, found),) = named.items()
        _overlay(ax, images[chosen[0]], found, chosen[0])
        ax.set_title(title)
        return ax.figure
    across = len(named) + 1
    side = min(2.1, (_WIDTH - 0.7) / across)
    with styled():
        figure, panels = plt.subplots(
            len(chosen),
            across,
            figsize=(side * across + 0.7, (side + 0.2) * len(chosen) + 0.3),
            layout="constrained",
            squeeze=False,
            FigureClass=figure_class(),
        )
    for row, sample in zip(panels, chosen, strict=True):
        _bare(row[0])
        row[0].imshow(images[sample], cmap="gray", vmin=0.0, vmax=1.0)
        for panel, found in zip(row[1:], named.values(), strict=True):
            _overlay(panel, images[sample], found, sample)
    for panel, title in zip(panels[0], ("input", *named), strict=True):
        panel.set_title(title or next(iter(named.values())).layer)
    scale = matplotlib.cm.ScalarMappable(cmap=_OVERLAY)
    scale.set_clim(0.0, 1.0)
    bar = figure.colorbar(scale, ax=panels, shrink=0.7, aspect=30, ticks=[0, 1])
    bar.set_label("relevance, of the largest", labelpad=-4)
    return figure


def _overlay(panel: Axes, image: np.ndarray, found: HeatMap, sample: int) -> None:
    import matplotlib

    _bare(panel)
    panel.imshow(image if image.ndim == 2 else _grey(image), cmap="gray", vmin=0.0, vmax=1.0)
    values = found.scaled()[sample]
    colours = matplotlib.colormaps[_OVERLAY](values)
    colours[..., 3] = _FAINT + (_STRONG - _FAINT) * values
    panel.imshow(colours)
    panel.set_xlabel(_what(found, sample), fontsize="small")


def _bare(panel: Axes) -> None:
    panel.grid(False)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)


def _shown(images: np.ndarray) -> np.ndarray:
    """Return images from 0 to 1, in colour where they have three channels or four."""
    if images.dtype.kind in "iu":
        shown = images / (255.0 if images.max() > 1 else 1.0)
    else:
        shown = images.astype("float64")
    lowest, highest = float(shown.min()), float(shown.max())
    if lowest < 0 or highest > 1:
        shown = (shown - lowest) / ((highest - lowest) or 1.0)
    return shown[..., :3] if shown.shape[-1] in (3, 4) else shown.mean(axis=-1)


def _grey(image: np.ndarray) -> np.ndarray:
    return np.asarray(image @ np.array([0.299, 0.587, 0.114]))


# Time series ----------------------------------------------------------------------------


def _draw_series(
    array: np.ndarray, named: Mapping[str, HeatMap], chosen: list[int], ax: Axes | None
) -> Figure | SubFigure:
    import matplotlib.pyplot as plt

    lines = _channels_last(array, next(iter(named.values())).values)
    if ax is not None:
        strips = [ax.inset_axes((0.0, -0.2 * (n + 1), 1.0, 0.14)) for n in range(len(named))]
        _draw_line(ax, strips, lines[chosen[0]], named, chosen[0])
        return ax.figure
    heights = [_STRIPS, *[1.0] * len(named)]
    with styled():
        figure, panels = plt.subplots(
            len(heights) * len(chosen),
            figsize=(_WIDTH, (0.65 + 0.2 * sum(heights)) * len(chosen)),
            height_ratios=heights * len(chosen),
            layout="constrained",
            FigureClass=figure_class(),
        )
    for first, sample in zip(range(0, len(panels), len(heights)), chosen, strict=True):
        panel, *strips = panels[first : first + len(heights)]
        _draw_line(panel, strips, lines[sample], named, sample)
    return figure


def _draw_line(
    panel: Axes,
    strips: Sequence[Axes],
    line: np.ndarray,
    named: Mapping[str, HeatMap],
    sample: int,
) -> None:
    """Draw a series, and below it a strip for each heat map; the last has the axis of time."""
    for n in range(line.shape[-1]):
        panel.plot(line[:, n], color=COLOURS[n % len(COLOURS)], linewidth=1.2)
    limits = (-0.5, len(line) - 0.5)
    panel.set_xlim(*limits)
    panel.tick_params(axis="x", labelbottom=False, length=0)
    said = dict.fromkeys(_what(found, sample) for found in named.values())
    panel.set_title(f"sample {sample}: {' / '.join(said)}", loc="left", fontsize="small")
    for strip, (title, found) in zip(strips, named.items(), strict=True):
        strip.grid(False)
        strip.imshow(_marks(found.scaled()[sample])[None], aspect="auto", interpolation="nearest")
        strip.set_xlim(*limits)
        strip.set_yticks([0], [title or "relevance"])
        strip.tick_params(axis="y", length=0, labelsize="small")
        is_last = strip is strips[-1]
        strip.tick_params(axis="x", labelbottom=is_last, length=3 if is_last else 0)
        for spine in strip.spines.values():
            spine.set_visible(True)
            spine.set_linewidth(0.5)
    strips[-1].set_xlabel("step")


def _marks(values: np.ndarray) -> np.ndarray:
    """Return the colours of values from 0 to 1, to be laid over a background."""
    import matplotlib.colors

    colours = np.empty((*values.shape, 4))
    colours[..., :3] = matplotlib.colors.to_rgb(_MARK)
    colours[..., 3] = values
    return colours


# Texts ----------------------------------------------------------------------------------


def _words(array: np.ndarray, tokens: Any) -> list[list[str]]:
    """Return the texts of each sample's tokens."""
    if tokens is None:
        return [[str(token) for token in row] for row in array]
    is_flat = not isinstance(tokens, str) and all(isinstance(word, str) for word in tokens)
    rows = [list(tokens)] if is_flat else [list(row) for row in tokens]
    if isinstance(tokens, str) or not all(isinstance(w, str) for row in rows for w in row):
        rule = "be strings, or a sequence of strings for each sample"
        raise ArgumentTypeError(_OWNER, "tokens", rule, value=tokens)
    if len(rows) != len(array) or any(len(row) > array.shape[1] for row in rows):
        rule = f"have a sequence of at most {array.shape[1]} strings for each of x's samples"
        received = f"{len(rows)} for {len(array)} sample(s), the longest of {max(map(len, rows))}"
        raise ArgumentError(_OWNER, "tokens", rule, received=received)
    return rows


def _draw_texts(
    words: list[list[str]], named: Mapping[str, HeatMap], chosen: list[int], ax: Axes | None
) -> Figure | SubFigure:
    import matplotlib.pyplot as plt

    if ax is not None:
        ((title, found),) = named.items()
        place = ax.get_position()
        width, height = ax.figure.get_figure(root=True).get_size_inches()
        across = _letters_in(place.width * width)
        _draw_text(ax, _laid_out(words[chosen[0]], across), across, found, chosen[0], title)
        # Lines of the same height as elsewhere, from the top.
        ax.set_ylim(max(ax.get_ylim()[0], place.height * height / _LINE), 0)
        return ax.figure
    across = _letters_in(_WIDTH - 0.2)
    laid_out = {sample: _laid_out(words[sample], across) for sample in chosen}
    panels = [
        (sample, title, found, laid_out[sample])
        for sample in chosen
        for title, found in named.items()
    ]
    heights = [(_ABOVE + _lines_of(places)) * _LINE for *_, places in panels]
    with styled():
        figure = plt.figure(figsize=(_WIDTH, sum(heights) + 0.1), FigureClass=figure_class())
    top = sum(heights) + 0.05
    for (sample, title, found, places), height in zip(panels, heights, strict=True):
        inches = _lines_of(places) * _LINE
        bottom = top - height
        box = (0.1 / _WIDTH, bottom, (_WIDTH - 0.2) / _WIDTH, inches)
        total = sum(heights) + 0.1
        panel = figure.add_axes((box[0], box[1] / total, box[2], box[3] / total))
        _draw_text(panel, places, across, found, sample, title)
        top = bottom
    return figure


def _letters_in(inches: float) -> int:
    return max(12, int(inches * 72 / (_LETTERS * _LETTER_WIDTH)))


#: The line of each token, where it begins, and what is shown of it.
_Places = list[tuple[int, int, str]]


def _laid_out(words: Sequence[str], across: int) -> _Places:
    """Return the place of each token, in lines of so many letters."""
    places: _Places = []
    line = start = 0
    for word in words:
        text = " ".join(word.split()) or " "
        text = text if len(text) < across - 1 else f"{text[: across - 3]}…"
        if start and start + len(text) + 1 > across:
            line, start = line + 1, 0
        places.append((line, start, text))
        start += len(text) + 1
    return places


def _lines_of(places: _Places) -> int:
    return 1 + max((line for line, _, _ in places), default=0)


def _draw_text(
    panel: Axes, places: _Places, across: int, found: HeatMap, sample: int, title: str
) -> None:
    import matplotlib.patches

    panel.set_axis_off()
    panel.set_xlim(0, across)
    panel.set_ylim(_lines_of(places), 0)
    what = _what(found, sample)
    panel.set_title(f"{title}: {what}" if title else what, loc="left", fontsize="small", pad=3)
    values = found.scaled()[sample]
    for (line, start, text), colour in zip(places, _marks(values), strict=False):
        size = len(text) + 1.0
        cell = matplotlib.patches.Rectangle((start, line + 0.06), size, 0.88, color=colour, lw=0)
        panel.add_patch(cell)
        panel.text(
            start + size / 2,
            line + 0.5,
            text,
            family="monospace",
            fontsize=_LETTERS,
            ha="center",
            va="center_baseline",
        )
