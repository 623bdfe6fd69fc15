"""Compare the memory that `parameter_report` estimates with what JAX's compiler and Linux say.

`run` compiles a training step of six small models, at every freeze depth, and appends XLA's
figures beside the estimates to results/memory.jsonl. `peak` trains one model in processes of their
own and reads the most memory that each has had. `table` prints both.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import runs
from memory_models import CASES, cuts, vgg_like, weighted_layers
from rich.console import Console
from rich.table import Table
from scipy import stats

import keras_freeze as kf

RESULTS = Path(__file__).parent / "results" / "memory.jsonl"
# The model whose training's peak is measured, frozen up to these layers.
PEAK = {"width": 32, "side": 96}
PEAK_BATCH = 64
PEAK_DEPTHS = (0, 2, 4, 6)


def frozen(model: keras.Model, depth: int) -> keras.Model:
    """Compile a model with so many of its weighted layers frozen."""
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    if depth:
        kf.freeze(model, layers=weighted_layers(model)[:depth])
    return model


def compare(name: str, depth: int, **sizes: int) -> dict[str, Any]:
    """Return the estimate and XLA's figures of one cut, in bytes."""
    case = CASES[name]
    keras.utils.set_random_seed(0)
    model = frozen(case.build(**sizes), depth)
    memory = kf.parameter_report(model, batch_size=case.batch_size, measured=True).memory
    if memory is None or memory.measured is None:
        raise RuntimeError("no memory was reported")
    step = (memory.activation_bytes, memory.working_bytes, memory.gradient_bytes)
    return {
        "case": name,
        "depth": depth,
        "batch_size": case.batch_size,
        "estimate": memory.total_bytes,
        "estimate_of_step": sum(size or 0 for size in step),
        "activations": memory.activation_bytes,
        "xla": memory.measured.total_bytes,
        "xla_of_step": memory.measured.temporary_bytes,
    }


def agreement(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return Spearman's correlation and the median ratio, of whole steps and of what they add."""
    found = {}
    for kind in ("", "_of_step"):
        ours, theirs = ([row[f"{who}{kind}"] for row in rows] for who in ("estimate", "xla"))
        found[f"spearman{kind}"] = float(stats.spearmanr(ours, theirs).statistic)
        ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
        found[f"ratio{kind}"] = statistics.median(ratios)
        found[f"lowest{kind}"], found[f"highest{kind}"] = min(ratios), max(ratios)
    return found


def peak(depth: int) -> dict[str, Any]:
    """Train a few steps in this process, and return its peak beside what was expected."""
    keras.utils.set_random_seed(0)
    model = frozen(vgg_like(**PEAK), depth)
    memory = kf.parameter_report(model, batch_size=PEAK_BATCH).memory
    if memory is None:
        raise RuntimeError("no memory was reported")
    side = PEAK["side"]
    x = np.zeros((PEAK_BATCH, side, side, 3), "float32")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model.fit(x, np.zeros(PEAK_BATCH, "int32"), batch_size=PEAK_BATCH, epochs=3, verbose=0)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"depth": depth, "estimate": memory.total_bytes, "before": before, "peak": after}
    memory = kf.parameter_report(model, batch_size=PEAK_BATCH, measured=True).memory
    if memory is None or memory.measured is None:
        raise RuntimeError("no memory was reported")
    return {**found, "xla": memory.measured.total_bytes}


def run() -> None:
    """Compile what the results do not hold."""
    done = {(row["case"], row["depth"]) for row in runs.read(RESULTS)}
    for name, case in CASES.items():
        for depth in cuts(case.build()):
            if (name, depth) not in done:
                runs.append(RESULTS, {**compare(name, depth), "machine": runs.machine()})


def run_peaks() -> None:
    """Train what the results do not hold, each depth in a process of its own."""
    done = {row["depth"] for row in runs.read(RESULTS) if row["case"] == "peak"}
    for depth in PEAK_DEPTHS:
        if depth not in done:
            command = [sys.executable, __file__, "one-peak", "--depth", str(depth)]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found = json.loads(out.splitlines()[-1])
            runs.append(RESULTS, {"case": "peak", **found, "machine": runs.machine()})


def table() -> None:
    """Print what the results hold."""
    rows = runs.read(RESULTS)
    shown = Table("model", "cuts", "Spearman", "ratio", "Spearman, step", "ratio, step")
    for name in CASES:
        own = [row for row in rows if row["case"] == name]
        if own:
            found = agreement(own)
            cells = [name, str(len(own))]
            for kind in ("", "_of_step"):
                low, high = found[f"lowest{kind}"], found[f"highest{kind}"]
                cells += [f"{found[f'spearman{kind}']:.2f}"]
                cells += [f"{found[f'ratio{kind}']:.2f} ({low:.2f} to {high:.2f})"]
            shown.add_row(*cells)
    Console(width=110).print(shown)
    peaks = Table("layers frozen", "estimate, MB", "XLA, MB", "peak, MB", "above the start, MB")
    for row in sorted((r for r in rows if r["case"] == "peak"), key=lambda r: r["depth"]):
        sizes = (row["estimate"], row["xla"], row["peak"], row["peak"] - row["before"])
        peaks.add_row(str(row["depth"]), *(f"{size / 2**20:.0f}" for size in sizes))
    Console(width=110).print(peaks)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("run", "peak", "one-peak", "table"))
    parser.add_argument("--depth", type=int, default=0, help="for one-peak")
    arguments = parser.parse_args()
    if arguments.command == "one-peak":
        print(json.dumps(peak(arguments.depth)))
        return
    if arguments.command == "run":
        run()
    elif arguments.command == "peak":
        run_peaks()
    table()


if __name__ == "__main__":
    main()
