"""Measure how deep to unfreeze, found by training itself, against depths that are fixed.

On the four tasks of `adaptive_tasks.py`: photographs (VGG16, 90 patches of 48 x 48 pixels for
training, 120 for validation), sentences and names (two LSTMs), packages (a transformer encoder).
The head trains at 1e-3, with the same group rates in every arm but those that are about rates. A
training ends after 5 epochs without improvement, or after 40, and goes back to its best epoch by
validation loss; `GradualUnfreeze()` and `ProgressiveFreeze()`, whose groups wait for their epochs,
take all 40. The arms of a seed run in a process of their own, in turns; time is that of the
processor, over all cores, with the prefix cache as it is by default. Test accuracy is looked at
once, at the end of each training.

    python benchmarks/adaptive.py run photographs
    python benchmarks/adaptive.py table photographs

Results are appended to a file, a line a run, and runs that it holds are skipped. The best fixed
depth is chosen for each seed by validation loss; it costs the time of all.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import adaptive_tasks
import keras
import runs
from adaptive_tasks import TASKS, Task

import keras_freeze as kf

RESULTS = Path(__file__).parent / "results" / "adaptive.jsonl"
SEEDS = range(10)
PATIENCE = 5
# All at once is also tried at these multiples of the head's rate, the same for all groups.
MULTIPLES = (0.1, 0.3, 1.0)
# A rate that is too high.
HIGH = 3.0
SWEEP = "best fixed depth, by a sweep"
ALL = "all at once, best of three rates"
AUTO = "Auto(), a race"


#: What makes a callback for a task, from the training data.
Make = Callable[[Task, Any], kf.FreezeScheduler]


def _fixed(depth: int, rates: Any = "default") -> Make:
    return lambda task, data: kf.FreezeScheduler(
        {0: depth}, backbone=task.backbone, rates=rates, verbose=0
    )


def _gradual(schedule: Any) -> Make:
    return lambda task, data: kf.GradualUnfreeze(schedule, backbone=task.backbone, verbose=0)


def _settling(criterion: Any) -> Make:
    def make(task: Task, data: Any) -> kf.FreezeScheduler:
        return kf.AutoFreeze(
            criterion=criterion,
            probe=None if criterion in ("gradient", "weight_change") else data.x,
            backbone=task.backbone,
            rates="default",
            verbose=0,
        )

    return make


def _top(k: int) -> Make:
    def make(task: Task, data: Any) -> kf.FreezeScheduler:
        phase = kf.schedules.Phase(kf.schedules.TopGradient(k, data.x, data.y))
        plan = kf.schedules.FreezeSchedule([phase])
        return kf.FreezeScheduler(plan, backbone=task.backbone, rates="default", verbose=0)

    return make


def _progressive(task: Task, data: Any) -> kf.FreezeScheduler:
    return kf.ProgressiveFreeze(backbone=task.backbone, rates="default", verbose=0)


def arms_of(task: Task) -> dict[str, tuple[Make, float]]:
    """Return what is run on a task: the callback, and by what the learning rate is multiplied."""
    auto = kf.schedules.Auto
    return {
        **{f"all at once, rate x{m:g}": (_fixed(0, rates=None), m) for m in MULTIPLES},
        **{f"depth {depth}": (_fixed(depth), 1.0) for depth in range(task.groups)},
        "GradualUnfreeze()": (_gradual("even"), 1.0),
        AUTO: (_gradual(auto(stall=PATIENCE, then="stop")), 1.0),
        'Auto("sequence")': (_gradual(auto("sequence", stall=PATIENCE, then="stop")), 1.0),
        **{f"AutoFreeze, {name}": (_settling(name), 1.0) for name in task.criteria},
        "ProgressiveFreeze()": (_progressive, 1.0),
        'all at once, rates="auto"': (_fixed(0, rates="auto"), 1.0),
        **{f"top {k} by gradient": (_top(k), 1.0) for k in (1, 2)},
        **{f"{name}, rate x{HIGH:g}": (make, HIGH) for name, make in _too_fast()},
    }


def _too_fast() -> list[tuple[str, Make]]:
    """Return what is also tried at a rate that is too high."""
    return [("GradualUnfreeze()", _gradual("even")), ("all at once", _fixed(0, rates=None))]


def measure(name: str, seed: int, names: list[str]) -> None:
    """Train some arms on a task with one seed and write down what came out."""
    task = TASKS[name]
    data, arms = task.load(seed), arms_of(task)
    for arm in names:
        make, multiple = arms[arm]
        keras.utils.set_random_seed(seed)
        model = task.build(seed)
        optimizer = keras.optimizers.Adam(task.rate * multiple)
        model.compile(optimizer, adaptive_tasks.LOSS, metrics=["accuracy"])
        callback = make(task, data.train)
        is_auto = isinstance(callback, kf.GradualUnfreeze) and callback.schedule != "even"
        waits = (kf.GradualUnfreeze, kf.ProgressiveFreeze)
        patience = task.epochs if isinstance(callback, waits) else PATIENCE
        best = keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True)
        began = time.process_time()
        history = model.fit(
            data.train.x,
            data.train.y,
            batch_size=task.batch_size,
            epochs=task.epochs,
            validation_data=(data.validation.x, data.validation.y),
            verbose=0,
            callbacks=[callback] if is_auto else [callback, best],
        ).history
        seconds = time.process_time() - began
        scores = model.evaluate(data.validation.x, data.validation.y, verbose=0, return_dict=True)
        test = model.evaluate(data.test.x, data.test.y, verbose=0, return_dict=True)
        row = {"task": name, "arm": arm, "seed": seed, "accuracy": round(test["accuracy"], 5)}
        row |= {"val_loss": round(scores["loss"], 5), "cpu_s": round(seconds, 2)}
        row["epochs"] = len(history["loss"])
        if "freeze_depth" in history:
            row["depth"] = int(history["freeze_depth"][-1])
        runs.append(RESULTS, {**row, "machine": runs.machine()})


def run(name: str, seeds: Sequence[int] = SEEDS) -> None:
    """Measure on a task what is missing."""
    done = {(row["arm"], row["seed"]) for row in runs.read(RESULTS) if row["task"] == name}
    arms = [*arms_of(TASKS[name])]
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
        for seed in seeds:
            turned = arms[seed % len(arms) :] + arms[: seed % len(arms)]
            missing = [arm for arm in turned if (arm, seed) not in done]
            if missing:
                pool.submit(measure, name, seed, missing).result()


def with_choices(rows: list[dict[str, Any]], groups: int) -> dict[str, dict[int, dict[str, Any]]]:
    """Return runs by arm and seed, those of a choice among others with the time of all of them."""
    by_arm: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], {})[row["seed"]] = row
    rates = [f"all at once, rate x{multiple:g}" for multiple in MULTIPLES]
    depths = [f"depth {depth}" for depth in range(groups)]
    for choice, names in ((ALL, rates), (SWEEP, depths)):
        seeds = set.intersection(*(set(by_arm.get(name, {})) for name in names))
        by_arm[choice] = {seed: _chosen([by_arm[name][seed] for name in names]) for seed in seeds}
    return by_arm


def _chosen(among: list[dict[str, Any]]) -> dict[str, Any]:
    best = min(among, key=lambda row: row["val_loss"])
    return {**best, "chosen": best["arm"], "cpu_s": sum(row["cpu_s"] for row in among)}


def table(rows: list[dict[str, Any]], name: str) -> str:
    """Lay out means with their 95 % intervals, and differences seed by seed, as Markdown."""
    task = TASKS[name]
    by_arm = with_choices([row for row in rows if row["task"] == name], task.groups)
    lines = [
        "| arm | test accuracy | difference to the sweep's best | validation loss | time of the "
        "sweep's |",
        "|---|---|---|---|---|",
    ]
    order = [*arms_of(task), ALL, SWEEP]
    for arm in [arm for arm in order if by_arm.get(arm)]:
        lines.append(_line(arm, by_arm[arm], by_arm[SWEEP]))
    return "\n".join(lines)


def _line(name: str, own: Mapping[int, dict[str, Any]], sweep: Mapping[int, dict[str, Any]]) -> str:
    pairs = [(row, sweep[seed]) for seed, row in own.items() if seed in sweep]
    differences = [row["accuracy"] - other["accuracy"] for row, other in pairs]
    ratios = [row["cpu_s"] / other["cpu_s"] for row, other in pairs]
    cells = [
        name,
        runs.interval([row["accuracy"] for row in own.values()]),
        runs.interval(differences, "+") if pairs and name != SWEEP else "",
        runs.interval([row["val_loss"] for row in own.values()]),
        f"{statistics.median(ratios):.2f}" if pairs else "",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("tasks", nargs="*", default=[*TASKS])
    arguments = parser.parse_args()
    for name in arguments.tasks:
        if arguments.what == "run":
            run(name)
        print(f"{name}\n\n{table(runs.read(RESULTS), name)}\n")


if __name__ == "__main__":
    main()
