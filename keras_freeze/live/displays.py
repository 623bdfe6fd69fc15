"""Where a live view is shown: in a notebook, in a terminal, or as lines of text."""

from __future__ import annotations

import abc
import enum
import sys
import threading
from collections.abc import Callable
from typing import Any, Literal, get_args

import rich.console

from keras_freeze.checks import ArgumentError
from keras_freeze.live import words
from keras_freeze.live.page import as_html
from keras_freeze.live.panel import as_panel
from keras_freeze.live.status import Status

Form = Literal["auto", "notebook", "terminal", "lines"]
FORMS: tuple[Form, ...] = get_args(Form)

_MAX_WIDTH = 100


class Occasion(enum.Enum):
    """Why a status is shown."""

    PHASE = enum.auto()
    STEP = enum.auto()
    EPOCH = enum.auto()
    END = enum.auto()


class Display(abc.ABC):
    """Shows the states of one fit.

    Attributes:
        is_redrawn: Bool, whether a status takes the place of the one before, so that some may be
            left out.
        keeps_lines: Bool, whether what is said is part of a status, so that it need not be printed.
    """

    is_redrawn = False
    keeps_lines = False

    @abc.abstractmethod
    def show(self, status: Status, occasion: Occasion) -> None:
        """Show a status."""

    def say(self, line: str, *, in_epoch: bool) -> None:
        """Show a line about the training; `in_epoch` where batches of the epoch are done."""
        print(line)

    def close(self) -> None:  # noqa: B027 - most have nothing to release
        """Release what the display holds; what it shows stays. A second call does nothing."""


class NotebookDisplay(Display):
    """One output of a notebook's cell, which is updated in place.

    Args:
        on_end_of_cell: Called with what ended the cell, if the fit did not end before it did: an
            exception, or None.
    """

    is_redrawn = True
    keeps_lines = True

    def __init__(self, on_end_of_cell: Callable[[BaseException | None], None]) -> None:
        self._on_end_of_cell = on_end_of_cell
        self._handle: Any = None
        self._thread = threading.get_ident()
        self._shell = notebook_shell()
        if self._shell is not None:
            self._shell.events.register("post_run_cell", self._cell_ended)

    def show(self, status: Status, occasion: Occasion) -> None:
        """Show a status: as HTML, and as text where a frontend has no HTML."""
        from IPython.display import display

        data = {"text/html": as_html(status), "text/plain": "\n".join(words.as_lines(status))}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)

    def say(self, line: str, *, in_epoch: bool) -> None:
        """Leave a line to the next status."""

    def close(self) -> None:
        """Forget the cell."""
        if self._shell is not None:
            self._shell.events.unregister("post_run_cell", self._cell_ended)
            self._shell = None

    def _cell_ended(self, result: Any = None) -> None:
        if threading.get_ident() == self._thread:  # else the fit goes on beside the cells
            self._on_end_of_cell(getattr(result, "error_in_exec", None))


class LivePanel(Display):
    """A panel at the bottom of a terminal in which Keras shows no progress bar.

    What is printed meanwhile appears above it.
    """

    is_redrawn = True

    def __init__(self) -> None:
        from rich.live import Live

        console = rich.console.Console(highlight=False)
        self._width = min(console.width, _MAX_WIDTH)
        self._live = Live(console=console, auto_refresh=False)

    def show(self, status: Status, occasion: Occasion) -> None:
        """Show a status in place of the one before."""
        if not self._live.is_started:
            self._live.start()
            self._live.console.show_cursor(True)  # an interrupted fit would leave it hidden
        self._live.update(as_panel(status, self._width), refresh=True)

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()


class PanelsAboveBar(Display):
    """Panels and lines between the progress bars that Keras prints in a terminal."""

    def __init__(self) -> None:
        self._console = rich.console.Console(highlight=False)

    def show(self, status: Status, occasion: Occasion) -> None:
        """Print a panel at the beginning of a phase and at the end, and a line after an epoch."""
        if occasion is Occasion.EPOCH:
            left = "; ".join(words.time_left(status))
            if left:
                print(f"{left[0].upper()}{left[1:]}.")
        elif occasion is not Occasion.STEP:
            self._console.print(as_panel(status, min(self._console.width, _MAX_WIDTH)))

    def say(self, line: str, *, in_epoch: bool) -> None:
        """Print a line; in the middle of an epoch, below what the bar shows at present."""
        print(f"\n{line}" if in_epoch else line)


class Lines(Display):
    """A line after each epoch and at the beginning of a phase, for files and pipes."""

    def show(self, status: Status, occasion: Occasion) -> None:
        """Print a line."""
        if occasion is Occasion.PHASE:
            line = words.phase_line(status)
        elif occasion is Occasion.EPOCH:
            line = words.epoch_line(status)
        else:
            line = f"{words.headline(status)}." if occasion is Occasion.END else ""
        if line:
            print(line)


def notebook_shell() -> Any | None:
    """Return the IPython shell of a notebook's kernel, None anywhere else."""
    shell = _shell()
    return shell if getattr(shell, "kernel", None) is not None else None


def _shell() -> Any | None:
    ipython = sys.modules.get("IPython")  # where that runs, it has been imported
    return ipython.get_ipython() if ipython is not None else None


def display_for(
    form: Form, *, has_bar: bool, on_end_of_cell: Callable[[BaseException | None], None]
) -> Display:
    """Return the display for what this process writes to.

    Args:
        form: Which; `"auto"` for what suits.
        has_bar: Bool, whether Keras prints its progress in this fit.
        on_end_of_cell: As for `NotebookDisplay`.

    Raises:
        ValueError: if it is to be a notebook's display, and there is no notebook.
    """
    shell = notebook_shell()
    if form == "notebook" and shell is None:
        raise ArgumentError(
            "LiveView",
            "form",
            'be "auto", "terminal" or "lines" outside of a notebook',
            value=form,
        )
    if form == "notebook" or (form == "auto" and shell is not None):
        return NotebookDisplay(on_end_of_cell)
    console = rich.console.Console()
    is_terminal = console.is_terminal and not console.is_dumb_terminal
    if form == "lines" or (form == "auto" and not is_terminal):
        return Lines()
    # At an interactive prompt, what is typed after an error would be mixed up with a live panel.
    is_interactive = hasattr(sys, "ps1") or _shell() is not None
    return PanelsAboveBar() if has_bar or is_interactive or not is_terminal else LivePanel()
