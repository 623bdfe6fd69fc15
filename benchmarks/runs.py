"""What the benchmark scripts share: results files, one core, intervals, facts of the machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import keras
from rich.console import Console
from rich.table import Table
from scipy import stats

T = TypeVar("T")
Measured = TypeVar("Measured")


def use_one_core() -> None:
    """Keep TensorFlow to one core, so that shards side by side do not slow each other down."""
    import tensorflow as tf

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
    name = accelerator()
    return {
        **({"accelerator": name} if name else {}),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "keras": keras.__version__,
        keras.backend.backend(): importlib.metadata.version(keras.backend.backend()),
    }


def accelerator() -> str:
    """Return the names of the graphics processors, "" if there are none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def turned(items: Sequence[T], n: int) -> list[T]:
    """Return items in the order of the round n: each begins with another one."""
    first = n % len(items)
    return [*items[first:], *items[:first]]


def measured_in_turns(
    arms: Mapping[str, T], measure: Callable[[T], Measured], repeats: int, *, uncounted: int = 0
) -> dict[str, list[Measured]]:
    """Measure arms in turns, and return what was measured by their names.

    Args:
        arms: Mapping from a name to what is measured.
        measure: Function of that.
        repeats: Int, how many rounds.
        uncounted: Int, rounds before these that don't count. Defaults to 0.
    """
    found: dict[str, list[Measured]] = {name: [] for name in arms}
    for repeat in range(-uncounted, repeats):
        for name in turned([*arms], repeat):
            measured = measure(arms[name])
            if repeat >= 0:
                found[name].append(measured)
    return found


def median_ratio(values: Sequence[float], bases: Sequence[float]) -> float:
    """Return the median of the ratios, round by round."""
    return statistics.median(value / base for value, base in zip(values, bases, strict=True))


def measure_and_show(
    doc: str,
    file: Path,
    run: Callable[[int], dict[str, Any]],
    table: Callable[[dict[str, Any]], Table],
    *,
    repeats: int,
) -> None:
    """Measure by a command line's arguments, write the results down and print them.

    Args:
        doc: Str, the script's docstring.
        file: Path of the results, unless the command line names another.
        run: From the number of rounds to the results.
        table: From the results to what is printed.
        repeats: Int, how many rounds, unless the command line says.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=repeats, help="fits of each arm that count")
    parser.add_argument("--results", type=Path, default=file, help="file of results")
    arguments = parser.parse_args()
    results = run(arguments.repeats)
    arguments.results.write_text(json.dumps(results, indent=1) + "\n")
    Console(width=100).print(table(results))


def in_turns(
    file: Path,
    cases: Mapping[str, Sequence[str]],
    rounds: int,
    command: Callable[[str, str], list[str] | None],
) -> None:
    """Measure what is missing: each arm of a case in a process of its own, the arms in turns.

    Args:
        file: The results, a line a run; runs that are there are kept.
        cases: Case to its arms.
        rounds: Int, how often each arm runs.
        command: Returns what measures an arm of a case and prints JSON in its last line; None to
            leave it out.
    """
    done = {(row["case"], row["arm"], row["round"]) for row in read(file)}
    for case, arms in cases.items():
        for n in range(rounds):
            for arm in turned(arms, n):
                run = command(case, arm)
                if (case, arm, n) in done or run is None:
                    continue
                out = subprocess.run(run, capture_output=True, text=True, check=True).stdout
                row = {"case": case, "arm": arm, "round": n, **json.loads(out.splitlines()[-1])}
                append(file, {**row, "machine": machine()})


def medians(
    rows: Sequence[Mapping[str, Any]], case: str, arms: Sequence[str], others: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return for each arm of a case the medians, and of its ratios to others round by round."""
    by_arm: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        if row["case"] == case:
            by_arm.setdefault(row["arm"], {})[row["round"]] = row
    found = {}
    for arm in arms:
        own = by_arm.get(arm, {})
        if not own:
            continue
        found[arm] = {
            "seconds": statistics.median(row["seconds"] for row in own.values()),
            "peak_mb": statistics.median(row["peak_bytes"] / 2**20 for row in own.values()),
            "rounds": len(own),
        }
        epochs = [row["epoch_s"] for row in own.values() if "epoch_s" in row]
        if epochs:
            found[arm]["epoch_s"] = statistics.median(epochs)
        for other in others:
            pairs = [
                own[n]["seconds"] / by_arm[other][n]["seconds"]
                for n in own
                if n in by_arm.get(other, {})
            ]
            if pairs:
                found[arm][f"to_{other}"] = statistics.median(pairs)
    return found


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
