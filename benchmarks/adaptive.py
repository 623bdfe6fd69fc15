"""Measure how deep to unfreeze, found by training itself, against depths that are fixed.

On the four tasks of `adaptive_tasks.py`: photographs (VGG16, 90 patches of 48 x 48 pixels for
training, 120 for validation), sentences and names (two LSTMs), roles in source text (a transformer
encoder). Each task has three learning rates of the head. What is compared first is trained at all
of them, and may choose among them by validation loss; the rest at the middle one. The groups have
the same rates in every arm but those that are about rates. A training ends after 5 epochs without
improvement, or after 40, and goes back to its best epoch by validation loss; `GradualUnfreeze()`
and `ProgressiveFreeze()`, whose groups wait for their epochs, take all 40. The arms of a seed run
in a process of their own, in turns; time is that of the processor, over all cores, with the prefix
cache as it is by default. Test accuracy is looked at once, at the end of each training.

    python benchmarks/adaptive.py run photographs
    python benchmarks/adaptive.py table photographs
    python benchmarks/adaptive.py criteria sentences

Results are appended to a file, a line a run, and runs that it holds are skipped. Runs with an
accelerator count for accuracy alone, as those with `--untimed` do, for a machine that has other
work, and all others for time; where both have a run, its accuracy is that with the accelerator.
The best fixed depth is chosen for each seed by validation loss; it costs the time of all.
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
from adaptive_tasks import COMPARED, TASKS, Task

import keras_freeze as kf

RESULTS = Path(__file__).parent / "results" / "adaptive.jsonl"
SEEDS = range(10)
PATIENCE = 5
SWEEP = "best fixed depth, by a sweep"
AUTO = "Auto(), a race"
ALL = "all at once"
GRADUAL = "GradualUnfreeze()"
# What is trained at each of a task's rates.
MAIN = (ALL, "depth 0", GRADUAL, AUTO)

# An arm, and its learning rate of the head.
Run = tuple[str, float]

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


def arms_of(task: Task) -> dict[str, Make]:
    """Return what is compared on a task: its name, and what makes the callback."""
    auto = kf.schedules.Auto
    return {
        ALL: _fixed(0, rates=None),
        **{f"depth {depth}": _fixed(depth) for depth in range(task.groups)},
        GRADUAL: _gradual("even"),
        AUTO: _gradual(auto(stall=PATIENCE, then="stop")),
        'Auto("sequence")': _gradual(auto("sequence", stall=PATIENCE, then="stop")),
        **{f"AutoFreeze, {name}": _settling(name) for name in task.criteria},
        "ProgressiveFreeze()": _progressive,
        'all at once, rates="auto"': _fixed(0, rates="auto"),
        **{f"top {k} by gradient": _top(k) for k in (1, 2)},
    }


def runs_of(task: Task) -> list[Run]:
    """Return the arms with their rates, those at the middle rate first."""
    low, middle, high = task.rates
    others = [(name, rate) for rate in (low, high) for name in MAIN]
    return [*((name, middle) for name in arms_of(task)), *others]


def measure(name: str, seed: int, missing: list[Run], *, is_timed: bool = True) -> None:
    """Train some arms on a task with one seed and write down what came out."""
    task = TASKS[name]
    data, arms = task.load(seed), arms_of(task)
    for arm, rate in missing:
        keras.utils.set_random_seed(seed)
        model = task.build(seed)
        optimizer = keras.optimizers.Adam(rate)
        model.compile(optimizer, adaptive_tasks.LOSS, metrics=["accuracy"])
        callback = arms[arm](task, data.train)
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
        row = {"task": name, "arm": arm, "rate": rate, "seed": seed}
        row |= {"accuracy": round(test["accuracy"], 5), "val_loss": round(scores["loss"], 5)}
        row |= {"cpu_s": round(seconds, 2)} if is_timed else {}
        row["epochs"] = len(history["loss"])
        if "freeze_depth" in history:
            row["depth"] = int(history["freeze_depth"][-1])
        runs.append(RESULTS, {**row, "machine": runs.machine()})


def run(
    name: str,
    seeds: Sequence[int] = SEEDS,
    *,
    is_timed: bool = True,
    rates: Sequence[float] = (),
) -> None:
    """Measure on a task what is missing; with `rates`, of what is compared first at these."""
    rows = _of(runs.read(RESULTS), name, accelerated=bool(runs.accelerator()))
    done = {(row["arm"], row["rate"], row["seed"]) for row in rows}
    wanted = [(arm, rate) for rate in rates for arm in MAIN] or runs_of(TASKS[name])
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
        for seed in seeds:
            missing = [one for one in runs.turned(wanted, seed) if (*one, seed) not in done]
            if missing:
                pool.submit(measure, name, seed, missing, is_timed=is_timed).result()


def draw_criteria(name: str, seed: int = 0) -> Path:
    """Train with `AutoFreeze` by each criterion, all epochs, and draw what it measured."""
    import matplotlib.pyplot as plt

    task = TASKS[name]
    data = task.load(seed)
    figure, axes = plt.subplots(
        len(task.criteria), 1, figsize=(8, 3 * len(task.criteria)), layout="constrained"
    )
    for criterion, ax in zip(task.criteria, axes, strict=True):
        keras.utils.set_random_seed(seed)
        model = task.build(seed)
        model.compile(keras.optimizers.Adam(task.rates[1]), adaptive_tasks.LOSS)
        callback = _settling(criterion)(task, data.train)
        batch_size, epochs = task.batch_size, task.epochs
        x, y = data.train.x, data.train.y
        model.fit(x, y, batch_size, epochs, verbose=0, callbacks=[callback])
        kf.plots.decisions(callback, ax=ax)
        ax.set_title(f"{name}, {criterion}", loc="left")
    file = RESULTS.with_name(f"settling_{name}.png")
    figure.savefig(file, dpi=100)
    return file


Row = dict[str, Any]


def _of(rows: Sequence[Row], name: str, *, accelerated: bool) -> list[Row]:
    own = [row for row in rows if row["task"] == name]
    return [row for row in own if ("accelerator" in row["machine"]) == accelerated]


def by_run(rows: Sequence[Row], task: Task) -> dict[Run, dict[int, Row]]:
    """Return rows by arm and rate, and by seed; those of a choice cost the time of all of them.

    The choice of a depth is made at the middle rate, and that of a rate has the rate 0.
    """
    found: dict[Run, dict[int, Row]] = {}
    for row in rows:
        found.setdefault((row["arm"], row["rate"]), {})[row["seed"]] = row
    depths = [(f"depth {depth}", task.rates[1]) for depth in range(task.groups)]
    choices = {(SWEEP, task.rates[1]): depths}
    choices |= {(name, 0.0): [(name, rate) for rate in task.rates] for name in MAIN}
    for choice, among in choices.items():
        seeds = set.intersection(*(set(found.get(one, {})) for one in among))
        found[choice] = {seed: _chosen([found[one][seed] for one in among]) for seed in seeds}
    return found


def _chosen(among: list[Row]) -> Row:
    best = min(among, key=lambda row: row["val_loss"])
    return {**best, "cpu_s": sum(row.get("cpu_s", 0.0) for row in among)}


def table(rows: Sequence[Row], name: str) -> str:
    """Lay out means with their 95 % intervals, and differences seed by seed, as Markdown."""
    task = TASKS[name]
    own = _of(rows, name, accelerated=False)
    timed = by_run([row for row in own if "cpu_s" in row], task)
    # The dictionary keeps the later one of two runs with the same key.
    scored = by_run([*own, *_of(rows, name, accelerated=True)], task)
    low, middle, high = task.rates
    wanted = [(arm, middle) for arm in (*arms_of(task), SWEEP)]
    wanted += [(arm, rate) for arm in MAIN for rate in (low, middle, high, 0.0)]
    wanted += scored  # and what was measured at other rates
    lines = [
        "| arm | rate | test accuracy | difference to all at once at its best rate | difference "
        "to the best fixed depth | validation loss | time of all at once |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_line(one, scored, timed, task) for one in dict.fromkeys(wanted)]
    return "\n".join(line for line in lines if line)


def _line(
    one: Run,
    scored: Mapping[Run, Mapping[int, Row]],
    timed: Mapping[Run, Mapping[int, Row]],
    task: Task,
) -> str:
    own, (name, rate) = scored.get(one, {}), one
    if not own:
        return ""
    others = [(ALL, 0.0), (SWEEP, task.rates[1])]
    times = timed.get((ALL, task.rates[1]), {})
    ratios = [
        row["cpu_s"] / times[n]["cpu_s"] for n, row in timed.get(one, {}).items() if n in times
    ]
    cells = [
        name,
        f"{rate:g}" if rate else "the best of three",
        runs.interval([row["accuracy"] for row in own.values()]),
        *(_difference(own, scored[other]) if other != one else "" for other in others),
        runs.interval([row["val_loss"] for row in own.values()]),
        f"{statistics.median(ratios):.2f}" if ratios else "",
    ]
    return f"| {' | '.join(cells)} |"


def _difference(own: Mapping[int, Row], other: Mapping[int, Row]) -> str:
    pairs = [(row, other[seed]) for seed, row in own.items() if seed in other]
    return runs.interval([one["accuracy"] - two["accuracy"] for one, two in pairs], "+")


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["run", "table", "criteria"])
    parser.add_argument("tasks", nargs="*", default=[*COMPARED])
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many (%(default)s)")
    parser.add_argument("--untimed", action="store_true", help="the machine has other work")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[], help="train what has several rates at these"
    )
    arguments = parser.parse_args()
    for name in arguments.tasks:
        if arguments.what == "criteria":
            print(draw_criteria(name))
            continue
        if arguments.what == "run":
            timed = not arguments.untimed
            run(name, range(arguments.seeds), is_timed=timed, rates=arguments.rates)
        print(f"{name}\n\n{table(runs.read(RESULTS), name)}\n")


if __name__ == "__main__":
    main()
