"""Measure what `PrefixCache(precision="bfloat16")` makes of the time of frozen layers.

    KERAS_BACKEND=jax python benchmarks/precision.py run --size 224 --batch 64
    python benchmarks/precision.py table

VGG16 and ResNet50 with random weights, only the head trains. Each round fits without and with
bfloat16 and takes the seconds that the cache needed for a sample's features, from the second batch
on. Runs append to `results/precision.jsonl`; those that it holds are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_freeze as kf

RESULTS = Path(__file__).parent / "results" / "precision.jsonl"


def seconds(name: str, size: int, batch: int, precision: Any) -> float:
    """Return the seconds that a sample's features take."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    backbone = getattr(keras.applications, name)(
        weights=None, include_top=False, input_shape=(size, size, 3), pooling="avg"
    )
    outputs = keras.layers.Dense(15, activation="softmax", name="head")(backbone.output)
    model = keras.Model(backbone.inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    kf.freeze(model, before="head")
    rng = np.random.default_rng(0)
    x = rng.normal(0, 58, (10 * batch, size, size, 3)).astype("float32")
    cache = kf.PrefixCache(precision=precision, verbose=0)
    y = rng.integers(0, 15, len(x))
    model.fit(x, y, batch_size=batch, epochs=2, verbose=0, callbacks=[cache])
    return cache.statistics.sample_s


def device() -> str:
    """Return what computes."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"
    if backend == "jax":
        import jax

        found = jax.devices()[0]
        return "processor" if found.platform == "cpu" else found.device_kind
    return "processor"


def measured() -> list[dict[str, Any]]:
    """Return the runs in the results file."""
    return list(map(json.loads, RESULTS.read_text().splitlines())) if RESULTS.exists() else []


def run(size: int, batch: int, rounds: int) -> None:
    """Measure what is missing, alternating, and write it down."""
    done, backend = measured(), keras.backend.backend()
    for name in ("VGG16", "ResNet50"):
        for n in range(rounds):
            row = {"model": name, "size": size, "batch": batch, "round": n, "device": device()}
            row["backend"] = backend
            if any(row.items() <= earlier.items() for earlier in done):
                continue
            row["float32_s"] = seconds(name, size, batch, None)
            row["bfloat16_s"] = seconds(name, size, batch, "bfloat16")
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def table() -> str:
    """Lay out what was measured, as Markdown."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in measured():
        key = row["device"], row["backend"], row["model"], row["size"], row["batch"]
        groups.setdefault(key, []).append(row["bfloat16_s"] / row["float32_s"])
    lines = ["| device | backend | model | pixels | batch | time to float32 |", "|" + "---|" * 6]
    for key, ratios in groups.items():
        cells = [*map(str, key), f"{statistics.median(ratios):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.size, arguments.batch, arguments.rounds)
    print(table())
