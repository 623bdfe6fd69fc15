"""Measure what a second process brings: to a search with a chief and workers, and to one training.

    python benchmarks/workers.py run
    python benchmarks/workers.py table

Each process has one core to itself (the chief, which waits, that of the first worker), so two of
them have twice what one has. Both arms alternate. A search tries eight learning rates at one freeze
depth of a VGG16; its workers share a kept folder of features, and each counts how many it computed.
A training is one `fit` of a convolutional network on JAX, with a schedule, in one process or under
`DataParallel` in two, on the same batches.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "workers.jsonl"
ARMS = ["one", "two"]
RATES = 8
SIZE, ROWS, EPOCHS = 64, 640, 20


def pin(core: int) -> None:
    """Keep this process to one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core % (os.cpu_count() or 1)})


def search(folder: Path) -> None:
    """Be the chief or a worker of a search, by the environment."""
    name = os.environ["KERASTUNER_TUNER_ID"]
    pin(int(name.rpartition("_")[2]) if "_" in name else 0)
    import keras
    import prefix_cache_arms as arms

    import keras_freeze as kf
    from keras_freeze import tuning

    class Counting(kf.PrefixCache):
        """Writes down how many samples were computed, not looked up."""

        def on_train_end(self, logs: Any = None) -> None:
            super().on_train_end(logs)
            with (folder / "computed.txt").open("a") as file:
                file.write(f"{name} {self.statistics.misses}\n")

    backbone = arms.vgg.backbone(SIZE, "none")[0]
    weights = folder / "backbone.npz"

    def build(hp: Any) -> Any:
        model = arms.vgg.classifier(backbone, 15)
        model.compile(keras.optimizers.Adam(hp.Choice("rate", rates)), arms.LOSS)
        kf.freeze(model, groups=5)
        return model

    rates = [1e-3 / 2**n for n in range(RATES)]
    import numpy as np

    kept = np.load(weights)
    backbone.set_weights([kept[key] for key in kept.files])
    x, y, validation = arms.images(SIZE, ROWS)
    cache = Counting(directory=folder / "features", keep=True, auto=False, verbose=0)
    settings = {"directory": folder, "project_name": "search", "cache": cache, "seed": 1}
    tuner = tuning.RandomSearch(build, "val_loss", max_trials=RATES, **settings)
    fits = {"epochs": EPOCHS, "batch_size": arms.BATCH, "verbose": 0}
    tuner.search(x, y, validation_data=validation, **fits)


def fit(rank: int, count: int, port: int) -> None:
    """Be one of the processes of a training; print its seconds."""
    pin(rank)
    os.environ["KERAS_BACKEND"] = "jax"
    import jax

    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", count, rank)
    import keras
    import numpy as np
    import tensorflow as tf
    from keras import layers

    import keras_freeze as kf

    if count > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    keras.utils.set_random_seed(0)
    blocks = [
        layer
        for n in range(3)
        for layer in (
            layers.Conv2D(48, 3, padding="same", activation="relu", name=f"block{n}_conv"),
            layers.MaxPooling2D(name=f"block{n}_pool"),
        )
    ]
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), *blocks, layers.Flatten(), layers.Dense(10, name="head")]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(512, 32, 32, 3)).astype("float32"), rng.integers(0, 10, 512)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(64).repeat()
    names = [f"block{n}" for n in range(3)]
    backbone = [f"{name}_conv" for name in names]
    plan = {0: names[:1], 3: None}

    def train() -> float:
        callback = kf.FreezeScheduler(plan, backbone=backbone, rates=None, cache=False, verbose=0)
        begun = time.perf_counter()
        history = model.fit(data, epochs=6, steps_per_epoch=8, verbose=0, callbacks=[callback])
        losses.append(history.history["loss"][-1])
        return time.perf_counter() - begun

    losses: list[float] = []
    train()  # compiles
    print(json.dumps({"seconds": train(), "loss": losses[0]}))


def measured_search(arm: str) -> dict[str, Any]:
    """Run a search and return its seconds and how many features were computed."""
    import numpy as np
    import prefix_cache_arms as arms

    from keras_freeze.tuning import workers

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = arms.vgg.backbone(SIZE, "none")[0].get_weights()
        np.savez(folder / "backbone.npz", *weights)
        command = [sys.executable, "-W", "ignore", __file__, "search", name]
        team = workers.Team(command, 1 + (arm == "two"), folder / "logs")
        begun = time.perf_counter()
        if team.run():
            raise RuntimeError("the search has failed")
        seconds = time.perf_counter() - begun
        counts = [line.split() for line in (folder / "computed.txt").read_text().splitlines()]
    return {
        "seconds": seconds,
        "trials": len(counts),
        "workers": len({name for name, _ in counts}),
        "computed": sum(int(count) for _, count in counts),
        "samples": ROWS + ROWS // 4,
    }


def measured_fit(arm: str) -> dict[str, Any]:
    """Train in one or two processes and return the seconds of the slower."""
    count = 1 + (arm == "two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands = [
        [sys.executable, "-W", "ignore", __file__, "fit", str(rank), str(count), str(port)]
        for rank in range(count)
    ]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
    outputs = [process.communicate()[0] for process in started]
    rows = [json.loads(output.splitlines()[-1]) for output in outputs]
    return {"seconds": max(row["seconds"] for row in rows), "loss": rows[0]["loss"]}


CASES = {"search": measured_search, "fit": measured_fit}


def run(rounds: int) -> None:
    """Measure what is missing, the arms in turns."""
    import runs

    done = {(row["case"], row["arm"], row["round"]) for row in runs.read(RESULTS)}
    for case, measure in CASES.items():
        for n in range(rounds):
            for arm in runs.turned(ARMS, n):
                if (case, arm, n) not in done:
                    row = {"case": case, "arm": arm, "round": n, **measure(arm)}
                    runs.append(RESULTS, {**row, "machine": runs.machine()})


def table() -> str:
    """Lay out the ratios of two processes to one, as Markdown."""
    import runs

    rows = runs.read(RESULTS)
    lines = ["| | time of two to one | rounds | |", "|---|---|---|---|"]
    for case in CASES:
        one, two = (
            {row["round"]: row for row in rows if (row["case"], row["arm"]) == (case, arm)}
            for arm in ARMS
        )
        both = sorted(one.keys() & two.keys())
        if not both:
            continue
        ratio = runs.median_ratio(*([own[n]["seconds"] for n in both] for own in (two, one)))
        if case == "search":
            computed = sorted({row["computed"] for own in (one, two) for row in own.values()})
            note = f"features computed: {computed} for {one[both[0]]['samples']} samples"
        else:
            gap = max(abs(two[n]["loss"] / one[n]["loss"] - 1) for n in both)
            note = f"last losses differ by {gap:.0e} of them"
        lines.append(f"| {case} | {ratio:.2f} | {len(both)} | {note} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, show what was measured, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["run", "table", "search", "fit"])
    parser.add_argument("of", nargs="*", help="what a process is told that this script starts")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    arguments = parser.parse_args()
    if arguments.what == "search":
        search(Path(arguments.of[0]))
    elif arguments.what == "fit":
        fit(*map(int, arguments.of))
    elif arguments.what == "run":
        run(arguments.rounds)
    if arguments.what in ("run", "table"):
        print(table())


if __name__ == "__main__":
    main()
