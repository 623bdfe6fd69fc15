"""Measure what it costs a step to record its gradients: VGG16 on 64 x 64 pixels, all training.

    python benchmarks/recording.py

One process fits the same model in turns, with the same group rates: with nothing recorded, as
`AutoFreeze` records (a sum of gradients for each weight), as `rates="auto"` does (norms), and with
the logs that show them. Measured are the steps of a fit's second and third epoch, 16 of 8 pictures
each: in the first one the step is traced. Each time is compared with that of its own round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import runs
from rich.box import SIMPLE_HEAD
from rich.table import Table

import keras_freeze as kf
from keras_freeze.demo import vgg

RESULTS = Path(__file__).parent / "results" / "recording.json"
SIZE, CLASSES, GROUPS, STEPS, BATCH_SIZE = 64, 15, 6, 16, 8
COMMON: dict[str, Any] = {"backbone": vgg.BLOCKS, "verbose": 0}
NOTHING = "nothing recorded"


def _all(**options: Any) -> kf.FreezeScheduler:
    return kf.FreezeScheduler({0: 0}, **{"rates": "default", **options}, **COMMON)


# All groups (five blocks and the head) go on training, so that the steps are alike.
ARMS: dict[str, Callable[[], kf.FreezeScheduler]] = {
    NOTHING: _all,
    "AutoFreeze()": lambda: kf.AutoFreeze(min_trainable=GROUPS, rates="default", **COMMON),
    'rates="auto"': lambda: _all(rates="auto"),
    'log_details=["gradients"]': lambda: _all(log_details=["gradients"]),
}


class Steps(keras.callbacks.Callback):
    """Adds up what the steps after the first epoch take, on the clock and of processors."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.taken = {"steps_s": 0.0, "processor_s": 0.0}
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._began = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._epoch:
            self.taken["steps_s"] += time.perf_counter() - self._began[0]
            self.taken["processor_s"] += time.process_time() - self._began[1]


def measure(model: keras.Model, callback: Callable[[], Any]) -> dict[str, float]:
    """Fit, and return what the steps of two epochs took, in seconds."""
    rng = np.random.default_rng(0)
    rows = STEPS * BATCH_SIZE
    x = rng.normal(0, 58, (rows, SIZE, SIZE, 3)).astype("float32")
    y = rng.integers(0, CLASSES, rows)
    steps = Steps()
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=3, verbose=0, callbacks=[callback(), steps])
    return steps.taken


def run(repeats: int) -> dict[str, Any]:
    """Measure all arms in turns."""
    backbone, phrase = vgg.backbone(SIZE)
    model = vgg.classifier(backbone, CLASSES)
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    times = runs.measured_in_turns(ARMS, lambda arm: measure(model, arm), repeats)
    return {
        "machine": runs.machine(),
        "model": f"VGG16 at {SIZE}x{SIZE} with {phrase}",
        "steps": 2 * STEPS,
        "batch_size": BATCH_SIZE,
        "times": times,
    }


def table(results: dict[str, Any]) -> Table:
    """Lay out the medians over all rounds: of times, and of ratios to nothing in that round."""
    columns = ("arm", "a step", "ratio", "processor time", "ratio")
    laid_out = Table(*columns, box=SIMPLE_HEAD, title=results["model"])
    base = results["times"][NOTHING]
    for name, rows in results["times"].items():
        cells = [name]
        for key in ("steps_s", "processor_s"):
            own = [row[key] for row in rows]
            ratio = runs.median_ratio(own, [row[key] for row in base])
            a_step = 1000 * statistics.median(own) / results["steps"]
            cells += [f"{a_step:.1f} ms", f"{ratio:.4f}"]
        laid_out.add_row(*cells)
    return laid_out


if __name__ == "__main__":
    runs.measure_and_show(__doc__ or "", RESULTS, run, table, repeats=11)
