"""What all pictures of this package look like."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which can be distinguished with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
FROZEN_COLOUR = "#C9D6DF"
# Of maps of values: in grey and with any colour vision, more is lighter.
MAPS = "cividis"
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
