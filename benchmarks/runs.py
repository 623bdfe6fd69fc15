"""What the benchmark scripts share: results files, one core, intervals, facts of the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from scipy import stats


def use_one_core() -> None:
    """Keep TensorFlow to one core, so that shards side by side do not slow each other down."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def read(file: Path) -> list[dict[str, Any]]:
    """Return the runs in a results file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def append(file: Path, row: dict[str, Any]) -> None:
    """Write a run down, in the file and on the screen."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def machine() -> dict[str, Any]:
    """Return what a run's time, and its last digits, depend on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }


def half_width(values: Sequence[float]) -> float:
    """Return how far the 95 % confidence interval of a mean reaches to either side."""
    error = statistics.stdev(values) / len(values) ** 0.5
    return float(stats.t.ppf(0.975, len(values) - 1) * error)


def interval(values: Sequence[float], sign: str = "") -> str:
    """Format a mean with its 95 % confidence interval; `sign="+"` shows the mean's sign."""
    if len(values) < 2:
        return " ".join(f"{value:{sign}.3f}" for value in values)
    return f"{statistics.mean(values):{sign}.3f} ± {half_width(values):.3f}"


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
