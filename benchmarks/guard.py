"""Measure what `FreezeGuard` costs: VGG16 on 64 x 64 pixels with only its head training.

    python benchmarks/guard.py

One process fits the same model without a guard and with guards that compare at each epoch, at
every tenth step and at every step, in turns, so that whatever else the machine does falls on
all of them; each time is compared with that of its own round. An epoch has 32 steps of 8
pictures. Beside the time of an epoch it measures the processor time, of all threads, that the
epoch and the guard's own hooks take: what else runs on the machine touches it less.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import runs
from rich.box import SIMPLE_HEAD
from rich.table import Table

import keras_freeze as kf
from keras_freeze.demo import vgg

RESULTS = Path(__file__).parent / "results" / "guard.json"
ARMS: dict[str, Any] = {
    "no guard": None,
    'FreezeGuard("epoch")': "epoch",
    "FreezeGuard(10)": 10,
    "FreezeGuard(1)": 1,
}
OF_PROCESSORS = [("processor_s", "processor_s"), ("guard_processor_s", "processor_s")]
SIZE, CLASSES, STEPS, BATCH_SIZE = 64, 15, 32, 8


class Timed(kf.FreezeGuard):
    """A guard that adds up the processor time it takes itself."""

    own_s = 0.0

    def _timed(self, hook: Any, *arguments: Any) -> None:
        began = time.process_time()
        hook(*arguments)
        self.own_s += time.process_time() - began

    def on_train_begin(self, logs: Any = None) -> None:
        self._timed(super().on_train_begin, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._timed(super().on_train_batch_begin, batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._timed(super().on_epoch_end, epoch, logs)


def head_only() -> tuple[Any, str]:
    """Return the compiled model, and where its weights are from."""
    backbone, phrase = vgg.backbone(SIZE)
    model = vgg.classifier(backbone, CLASSES)
    model.compile("adam", "sparse_categorical_crossentropy")
    kf.freeze(model, before="head")
    return model, phrase


def measure(model: Any, every: Any) -> dict[str, float]:
    """Fit, and return seconds an epoch: on the clock, of processors, and of these in the guard."""
    rng = np.random.default_rng(0)
    rows = STEPS * BATCH_SIZE
    x = rng.normal(0, 58, (rows, SIZE, SIZE, 3)).astype("float32")
    y = rng.integers(0, CLASSES, rows)
    guards = [] if every is None else [Timed(every)]
    began, processor_began = time.perf_counter(), time.process_time()
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=1, verbose=0, callbacks=guards)
    return {
        "epoch_s": time.perf_counter() - began,
        "processor_s": time.process_time() - processor_began,
        "guard_processor_s": sum(guard.own_s for guard in guards),
    }


def run(repeats: int) -> dict[str, Any]:
    """Measure all arms in turns, after one fit of each that doesn't count."""
    model, phrase = head_only()
    frozen_bytes = kf.parameter_report(model).non_trainable_bytes
    times = runs.measured_in_turns(ARMS, lambda arm: measure(model, arm), repeats, uncounted=1)
    return {
        "machine": runs.machine(),
        "model": f"VGG16 at {SIZE}x{SIZE} with {phrase}, head only",
        "frozen_bytes": frozen_bytes,
        "steps": STEPS,
        "batch_size": BATCH_SIZE,
        "times": times,
    }


def table(results: dict[str, Any]) -> Table:
    """Lay out the medians over all rounds: of times, and of ratios to no guard in that round."""
    columns = ("arm", "an epoch", "ratio", "processor time", "ratio", "inside the guard", "ratio")
    laid_out = Table(*columns, box=SIMPLE_HEAD, title=results["model"])
    base = results["times"]["no guard"]
    for name, rows in results["times"].items():
        cells = [name]
        for key, against in [("epoch_s", "epoch_s"), *OF_PROCESSORS]:
            values = [row[key] for row in rows]
            ratio = runs.median_ratio(values, [row[against] for row in base])
            cells += [f"{statistics.median(values):.3f} s", f"{ratio:.4f}"]
        laid_out.add_row(*cells)
    return laid_out


if __name__ == "__main__":
    runs.measure_and_show(__doc__ or "", RESULTS, run, table, repeats=21)
