"""Measure what `LiveView` costs: VGG16 on 64 x 64 pixels with only its head training.

    python benchmarks/live_view.py

One process fits the same model without a view, with one in a notebook and with one that prints
lines, in turns, so that whatever else the machine does falls on all of them; each time is compared
with that of its own round. An epoch has 32 steps of 8 pictures. The notebook's display is published
as a kernel publishes it, as JSON, but to nobody. The first epoch of each fit, in which the step is
compiled, does not count. Beside the time of an epoch it measures what the view's own hooks take.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import runs
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from rich.box import SIMPLE_HEAD
from rich.table import Table

import keras_freeze as kf
from keras_freeze.demo import vgg

RESULTS = Path(__file__).parent / "results" / "live_view.json"
ARMS: dict[str, Any] = {
    "no view": None,
    "in a notebook": "notebook",
    "as lines": "lines",
}
SIZE, CLASSES, STEPS, BATCH_SIZE, EPOCHS = 64, 15, 32, 8, 4


class Published(DisplayPublisher):
    """Turns what is displayed into JSON, and counts it."""

    count = 0

    def publish(self, data: Any, *arguments: Any, **settings: Any) -> None:
        """Publish to nobody."""
        json.dumps(data).encode()
        self.count += 1


class Timed(kf.LiveView):
    """A view that adds up the time it takes itself, epoch by epoch."""

    def __init__(self, form: Any) -> None:
        super().__init__(form)
        self.own_s = [0.0]

    def _timed(self, hook: Any, *arguments: Any) -> None:
        began = time.perf_counter()
        hook(*arguments)
        self.own_s[-1] += time.perf_counter() - began

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._timed(super().on_epoch_begin, epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._timed(super().on_train_batch_begin, batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._timed(super().on_epoch_end, epoch, logs)
        self.own_s.append(0.0)


class Clock(keras.callbacks.Callback):
    """Records when each epoch ends."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.ends: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.ends.append(time.perf_counter())


@contextlib.contextmanager
def notebook() -> Iterator[Published]:
    """Let this process pass for a notebook's kernel."""
    shell: Any = InteractiveShell.instance()
    before, published = shell.display_pub, Published(shell=shell)
    shell.kernel, shell.display_pub = "a stand-in", published
    try:
        yield published
    finally:
        shell.display_pub = before
        del shell.kernel
        InteractiveShell.clear_instance()


def head_only() -> tuple[Any, str]:
    """Return the compiled model, and where its weights are from."""
    backbone, phrase = vgg.backbone(SIZE)
    model = vgg.classifier(backbone, CLASSES)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model, phrase


def measure(model: Any, form: Any) -> dict[str, float]:
    """Fit, and return seconds an epoch: on the clock, and of these in the view's hooks."""
    rng = np.random.default_rng(0)
    rows = STEPS * BATCH_SIZE
    x = rng.normal(0, 58, (rows, SIZE, SIZE, 3)).astype("float32")
    y = rng.integers(0, CLASSES, rows)
    clock = Clock()
    schedule = kf.FreezeScheduler({0: 5}, backbone=vgg.BLOCKS, cache=False, verbose=0)
    views = [] if form is None else [Timed(form)]
    is_notebook = form == "notebook"
    with (
        notebook() if is_notebook else contextlib.nullcontext() as published,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        model.fit(
            x,
            y,
            batch_size=BATCH_SIZE,
            epochs=EPOCHS,
            verbose=0,
            callbacks=[schedule, *views, clock],
        )
    return {
        "epoch_s": (clock.ends[-1] - clock.ends[0]) / (EPOCHS - 1),
        "view_s": sum(sum(view.own_s[1:EPOCHS]) for view in views) / (EPOCHS - 1),
        "updates": published.count / EPOCHS if published is not None else 0.0,
    }


def run(repeats: int) -> dict[str, Any]:
    """Measure all arms in turns, after one fit of each that doesn't count."""
    model, phrase = head_only()
    times = runs.measured_in_turns(ARMS, lambda arm: measure(model, arm), repeats, uncounted=1)
    return {
        "machine": runs.machine(),
        "model": f"VGG16 at {SIZE}x{SIZE} with {phrase}, head only",
        "steps": STEPS,
        "batch_size": BATCH_SIZE,
        "epochs": EPOCHS,
        "times": times,
    }


def table(results: dict[str, Any]) -> Table:
    """Lay out the medians over all rounds: of times, and of ratios to no view in that round."""
    columns = ("arm", "an epoch", "ratio", "inside the view", "ratio", "updates an epoch")
    laid_out = Table(*columns, box=SIMPLE_HEAD, title=results["model"])
    base = [row["epoch_s"] for row in results["times"]["no view"]]
    for name, rows in results["times"].items():
        cells = [name]
        for key in ("epoch_s", "view_s"):
            values = [row[key] for row in rows]
            cells += [
                f"{statistics.median(values):.4f} s",
                f"{runs.median_ratio(values, base):.4f}",
            ]
        cells.append(f"{statistics.median(row['updates'] for row in rows):.1f}")
        laid_out.add_row(*cells)
    return laid_out


if __name__ == "__main__":
    runs.measure_and_show(__doc__ or "", RESULTS, run, table, repeats=7)
