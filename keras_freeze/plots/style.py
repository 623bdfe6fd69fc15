"""What all pictures of this package look like."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_freeze.reports import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which can be distinguished with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
FROZEN_COLOUR = "#C9D6DF"
# Of maps of values: in grey and with any colour vision, more is lighter.
MAPS = "cividis"
#: What a layer group does, by a colour and a hatch, so that it can be told in grey too.
STATES: dict[str, dict[str, Any]] = {
    "new": {"facecolor": "#D55E00", "hatch": "xxx", "hatchcolor": "white"},
    "trainable": {"facecolor": "#0072B2"},
    "LoRA": {"facecolor": "#009E73", "hatch": "...", "hatchcolor": "white"},
    "partly frozen": {"facecolor": "#56B4E9", "hatch": r"\\\\", "hatchcolor": "white"},
    "frozen": {"facecolor": FROZEN_COLOUR, "hatch": "///", "hatchcolor": "#71818D"},
}
#: Inches. A figure that is wider is made smaller in a notebook, and its letters with it.
MAX_WIDTH = 9.0
#: So many characters of a group's name are shown.
MAX_NAME = 28
#: Values that are farther apart than this are drawn on a logarithmic axis.
WIDE = 30.0
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.alpha": 0.3,
    "axes.titlesize": "medium",
}

# A legend that the dotted lines of transitions don't cross.
OVER_MARKS: dict[str, Any] = {"edgecolor": "none", "framealpha": 1.0}


def palette() -> tuple[str, ...]:
    """Return `COLOURS`, with white for black on a dark background."""
    import matplotlib.pyplot as plt

    return (*COLOURS[:-1], plt.rcParams["text.color"])


def in_order(count: int, axes: Axes) -> list[tuple[float, ...]]:
    """Return so many colours that show an order, all of them visible on the axes."""
    import matplotlib as mpl
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(axes.get_facecolor())
    is_dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
    return [
        mpl.colormaps["viridis"](place)
        for place in np.linspace(0.25 if is_dark else 0.0, 1.0 if is_dark else 0.85, count)
    ]


def short_names(names: Iterable[str]) -> list[str]:
    """Return names as they fit beside an axis, no two alike.

    Example:
        >>> short_names(["block1", "efficientnetv2_block6_squeeze_and_excite"])
        ['block1', 'efficientnetv…eze_and_excite']
    """
    every = list(names)
    shown = shortened(every, MAX_NAME)
    return [shown[name] for name in every]


def mark(axes: Axes, epochs: Iterable[float], colour: str = "0.5") -> None:
    """Mark transitions by dotted lines."""
    for epoch in epochs:
        axes.axvline(epoch, color=colour, linestyle=":", linewidth=1, gid="transition")


def short_count(count: float, _: float | None = None) -> str:
    """Write a number of parameters as on an axis.

    Example:
        >>> short_count(14_700_000), short_count(135_000), short_count(96)
        ('14.7M', '135k', '96')
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:g}"


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Make figures inside in this package's style."""
    import matplotlib
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        yield
        is_interactive = plt.isinteractive()
    # A backend that a figure loads switches it on, and the context would switch it off again.
    matplotlib.interactive(is_interactive)


@functools.cache
def figure_class() -> type[Figure]:
    """Return the class of our figures, which a notebook shows once.

    Pyplot shows a figure at the end of the cell that makes it. One that is shown before, as the
    value of that cell, is therefore taken from pyplot.
    """
    import matplotlib.figure
    import matplotlib.pyplot as plt

    class Figure(matplotlib.figure.Figure):
        def _ipython_display_(self) -> None:
            plt.close(self)
            raise NotImplementedError  # which leaves the rest to IPython

    return Figure
