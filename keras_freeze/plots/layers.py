"""Pictures of what a layer puts out, and of what its filters respond to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_freeze.checks import ArgumentError, check_count, is_int
from keras_freeze.explain import FilterImages
from keras_freeze.plots.style import MAPS, figure_class, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Inches of a figure, and the most of one panel.
_WIDTH, _PANEL = 6.4, 1.5
# Maps that are drawn where no channels are named.
_CHANNELS = 16


def filters(found: FilterImages, *, columns: int | None = None) -> Figure:
    """Draw the images that filters respond to, with their mean response before and after.

    The contrast of each image is stretched, so that its pattern shows. Images of one channel are
    grey; of another number than three, the mean over channels is drawn.

    Args:
        found: `explain.FilterImages`, as `explain.activation_maximisation` returns them.
        columns: Int, images in a row. Defaults to None: as many as make a square, 8 at most.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: if `columns` is no positive int.

    Example:
        >>> from keras_freeze.explain import FilterImages
        >>> images = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
        >>> found = FilterImages(images, (0, 5), np.zeros(2), np.ones(2), "conv", "net", (-1, 1))
        >>> [axes.get_title() for axes in filters(found).axes]
        ['0: 0 → 1', '5: 0 → 1']
    """
    figure, panels = _grid("plots.filters", len(found.images), columns)
    parts = zip(panels, found.images, found.filters, found.before, found.after, strict=True)
    for panel, image, number, before, after in parts:
        panel.imshow(_stretched(image), cmap="gray", vmin=0.0, vmax=1.0)
        panel.set_title(f"{number}: {before:.2g} → {after:.2g}", fontsize="small")
    figure.suptitle(found.layer, fontsize="medium")
    figure.supxlabel("filter: mean response, before → after", fontsize="small")
    return figure


def activations(
    outputs: Any,
    sample: int = 0,
    *,
    channels: int | Sequence[int] | None = None,
    columns: int | None = None,
    data_format: str = "channels_last",
    ax: Axes | None = None,
) -> Figure | SubFigure:
    """Draw what a layer puts out for one sample: its maps in a grid, in one scale of colours.

    Of a layer that returns features for each time step or token, it is one picture with a row for
    each feature.

    Args:
        outputs: Array of shape `(samples, height, width, channels)` or
            `(samples, steps, features)`, as `explain.activations` returns it.
        sample: Int, which one. Defaults to 0.
        channels: Int or ints, which channels. Defaults to None: the first 16 maps, or all features.
        columns: Int, maps in a row. Defaults to None: as many as make a square, 8 at most.
        data_format: `"channels_last"` (default) or `"channels_first"`.
        ax: `matplotlib.axes.Axes` of yours, to draw into, where there is one map, or features.
            Defaults to None, a new figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: if the array has another rank, if there is no such sample or channel, or if
            several maps are to be drawn into `ax`.

    Example:
        >>> figure = activations(np.random.default_rng(0).normal(size=(2, 5, 5, 3)), sample=1)
        >>> [axes.get_title() for axes in figure.axes[:3]]
        ['0', '1', '2']
    """
    import matplotlib.pyplot as plt

    owner = "plots.activations"
    array = np.asarray(outputs)
    if array.ndim not in (3, 4):
        rule = "have shape (samples, height, width, channels) or (samples, steps, features)"
        raise ArgumentError(owner, "outputs", rule, received=f"an array of shape {array.shape}")
    if data_format not in ("channels_last", "channels_first"):
        rule = 'be "channels_last" or "channels_first"'
        raise ArgumentError(owner, "data_format", rule, value=data_format)
    if not is_int(sample) or not -len(array) <= sample < len(array):
        rule = f"be within the {len(array)} samples"
        raise ArgumentError(owner, "sample", rule, value=sample)
    own = array[sample].astype("float32")
    own = np.moveaxis(own, 0, -1) if data_format == "channels_first" else own
    numbers = _numbers(owner, channels, own.shape[-1], _CHANNELS if own.ndim == 3 else None)
    drawn = own[..., numbers]
    scale: dict[str, Any] = {"cmap": MAPS, "vmin": min(0.0, drawn.min()), "vmax": drawn.max()}
    if own.ndim == 3 and (ax is None or len(numbers) > 1):
        if ax is not None:
            rule = "be left out where several maps are drawn"
            raise ArgumentError(owner, "ax", rule, received=f"{len(numbers)} channels")
        figure, panels = _grid(owner, len(numbers), columns, beside=0.9)
        for n, panel in enumerate(panels):
            shown = panel.imshow(drawn[..., n], **scale)
            panel.set_title(str(numbers[n]), fontsize="small")
        figure.colorbar(shown, ax=figure.axes, shrink=0.8, label="activation")
        return figure
    if ax is None:
        with styled():
            _, ax = plt.subplots(
                figsize=(_WIDTH, 3.0), layout="constrained", FigureClass=figure_class()
            )
    ax.grid(False)
    shown = ax.imshow(
        drawn[..., 0] if own.ndim == 3 else drawn.T,
        aspect="equal" if own.ndim == 3 else "auto",
        interpolation="nearest",
        **scale,
    )
    if own.ndim == 2:
        ax.set_xlabel("step")
        ax.set_ylabel("feature")
    ax.figure.colorbar(shown, ax=ax, label="activation")
    return ax.figure


def _numbers(owner: str, channels: Any, count: int, most: int | None) -> list[int]:
    if channels is None:
        return list(range(min(count, most or count)))
    given = [channels] if is_int(channels) else list(np.atleast_1d(channels))
    if not given or not all(is_int(n) and 0 <= n < count for n in given):
        rule = f"be from 0 to {count - 1}"
        raise ArgumentError(owner, "channels", rule, value=channels)
    return [int(n) for n in given]


def _grid(owner: str, count: int, columns: Any, beside: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels, without axes, and room beside them, in inches."""
    import matplotlib.pyplot as plt

    if columns is not None:
        check_count(owner, "columns", columns)
    across = min(count, columns or min(8, math.ceil(math.sqrt(count))))
    down = math.ceil(count / across)
    side = min(_PANEL, (_WIDTH - beside) / across)
    with styled():
        figure, panels = plt.subplots(
            down,
            across,
            figsize=(max(3.2, side * across + beside), (side + 0.25) * down + 0.4 * (not beside)),
            layout="constrained",
            squeeze=False,
            FigureClass=figure_class(),
        )
    for panel in panels.flat:
        panel.set_axis_off()
    for panel in panels.flat[count:]:
        panel.remove()
    return figure, list(panels.flat[:count])


def _stretched(image: np.ndarray) -> np.ndarray:
    """Return an image as it is shown, from 0 to 1: its mean is grey, two deviations are an end."""
    shown = image if image.shape[-1] == 3 else image.mean(axis=-1)
    deviation = shown.std() or 1.0
    return np.asarray(((shown - shown.mean()) / (4.0 * deviation) + 0.5).clip(0.0, 1.0))
