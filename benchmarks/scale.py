"""Fit a model of what a training with frozen layers costs, check it, and say what to expect beyond.

    python benchmarks/scale.py run      # measure here, about 10 minutes
    python benchmarks/scale.py table    # the fit, its check, and the expectations

What a sample costs, in seconds:

- without the cache, in each epoch: P + S, the forward pass of the frozen part (the prefix) and the
  training step of the rest (the suffix);
- with it, in the first epoch: P + S + key + put, in later ones: key + get + S + step. There key,
  put and get have a part for each row and a part for each byte, of the input or of the features,
  and step is what a step that is cut takes for itself, whatever its size.

`run` measures the parts by themselves: P and S on models that are cut by hand, key, put and get on
rows of several sizes, in memory and in a kept folder. The check trains the same models, without the
cache and with it, and compares their epochs with what the parts add up to. The first epoch of a fit
traces, and is left out; step is the mean over the other models. For larger models and machines, P
and S follow from operations and from what a processor makes of its peak, and the host's parts are
those that were measured here.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import prefix_cache_arms as arms
import runs

import keras_freeze as kf
from keras_freeze.features import Budget, RowStore
from keras_freeze.prefix_cache.batches import keys_of

RESULTS = Path(__file__).parent / "results" / "scale.jsonl"
ROUNDS = 5
BATCH = 32
EPOCHS = 8
PARTS = ("prefix", "suffix", "plain", "cached", "input_bytes", "feature_bytes")
# Bytes of the rows that are kept and looked up, and whose keys are computed.
ROW_BYTES = (2**10, 2**13, 2**16, 2**19)
CASES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "VGG16, 64 x 64": lambda: (arms.vgg16(), arms.images(rows=256)),
    "ResNet50, 64 x 64": lambda: (arms.resnet50(), arms.images(rows=256)),
    "transformer, 64 tokens": lambda: (arms.transformer(), arms.texts(64)),
    "3 LSTMs, 64 tokens": lambda: (arms.lstm(), arms.texts(64)),
}


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A stack of blocks, by what it computes and what crosses a cut.

    Attributes:
        blocks: Int.
        block_flops: Operations of a block's forward pass for a sample.
        feature_bytes: Of the output of a block for a sample, in bfloat16.
        input_bytes: Of a sample, as it comes in.
    """

    blocks: int
    block_flops: float
    feature_bytes: float
    input_bytes: float


def transformer(
    blocks: int, width: int, tokens: int, weights: float, input_bytes: float
) -> Backbone:
    """Return a transformer's figures.

    Args:
        blocks: Int.
        width: Int, of the stream between the blocks.
        tokens: Int, of a sample.
        weights: Those of a block; each is multiplied and added once for a token.
        input_bytes: Of a sample.
    """
    flops = 2 * weights * tokens + 4 * tokens**2 * width
    return Backbone(blocks, flops, 2.0 * tokens * width, input_bytes)


# ViT-B/16: 12 blocks of 7.09 M weights, width 768, 197 tokens of a 224 x 224 image (Dosovitskiy et
# al., 2021). Llama 3 8B: 32 blocks of 218 M weights, width 4096 (Grattafiori et al., 2024), here
# with 512 tokens as int32.
BACKBONES = {
    "ViT-B/16": transformer(12, 768, 197, 7.09e6, 224 * 224 * 3),
    "Llama 3 8B": transformer(32, 4096, 512, 218e6, 4 * 512),
}
# NVIDIA's data sheet of the H100 SXM: 989 TFLOPS in bfloat16, 80 GB; PCIe 5.0 x16: 64 GB/s. 40 % of
# the peak is what large trainings reach.
FLOPS = 0.4 * 989e12
PCIE = 64e9
GPUS = 8
# A data set, and the disk of a host that has it.
SAMPLES = 1_000_000


def per_row(costs: dict[int, float]) -> tuple[float, float]:
    """Return the seconds for each row and for each byte, fitted to seconds by bytes of a row."""
    sizes, seconds = np.array(list(costs), float), np.array(list(costs.values()))
    # Least squares of relative errors, or the largest rows alone would count.
    columns = np.stack([1 / seconds, sizes / seconds], axis=1)
    row, byte = np.linalg.lstsq(columns, np.ones(len(sizes)), rcond=None)[0]
    return max(0.0, float(row)), max(0.0, float(byte))


def timed(function: Callable[[], Any], samples: int) -> float:
    """Return the seconds for a sample, the median of several rounds after one to get ready."""
    function()
    found = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        function()
        found.append((time.perf_counter() - begun) / samples)
    return statistics.median(found)


def store_costs(make: Callable[[], Any]) -> dict[str, dict[int, float]]:
    """Return the seconds for a row of key, put and get, by the bytes of a row."""
    found: dict[str, dict[int, float]] = {"key": {}, "put": {}, "get": {}}
    for size in ROW_BYTES:
        rng = np.random.default_rng(size)
        count = max(4, min(64, 2**27 // (size * BATCH)))
        batches = [rng.random((BATCH, size // 8)).view("float32") for _ in range(count)]
        keys = [keys_of(x) for x in batches]
        rows = count * BATCH

        def put(store: Any, keys: Any = keys, batches: Any = batches) -> None:
            for own, x in zip(keys, batches, strict=True):
                store.put(own, [x])

        def get(store: Any, keys: Any = keys) -> None:
            for own in keys:
                assert store.get(own) is not None

        puts = []
        for _ in range(ROUNDS):
            store = make()
            begun = time.perf_counter()
            put(store)
            puts.append((time.perf_counter() - begun) / rows)
        found["put"][size] = statistics.median(puts)
        found["key"][size] = timed(lambda: [keys_of(x) for x in batches], rows)  # noqa: B023
        found["get"][size] = timed(lambda: get(store), rows)  # noqa: B023
        store.clear()
    return found


class Epochs(keras.callbacks.Callback):
    """Notes how long each epoch takes."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin to measure."""
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note the time."""
        self.seconds.append(time.perf_counter() - self._begun)


def epochs(model: Any, x: Any, y: Any, count: int, *callbacks: Any) -> list[float]:
    """Train, and return the seconds of each epoch for a sample."""
    watch = Epochs()
    data = arms.batches((x, y), shuffle=True)
    model.fit(data, epochs=count, verbose=0, callbacks=[*callbacks, watch])
    return [seconds / len(y) for seconds in watch.seconds]


def case_costs(name: str) -> dict[str, Any]:
    """Return the seconds for a sample of the parts of a training, and of whole epochs."""
    model, (x, y, _) = CASES[name]()
    model.compile("adam", arms.LOSS)
    kf.freeze(model, groups=len(kf.layer_groups(model)) - 1)
    first = next(n for n, layer in enumerate(model.layers) if layer.trainable_weights)
    cut = model.layers[first - 1].output
    prefix, rest = keras.Model(model.inputs, cut), arms.suffix_of(model, cut)
    rest.compile("adam", arms.LOSS)
    batches = arms.batches(x)
    forward = timed(lambda: prefix.predict(batches, verbose=0), len(x))
    features = prefix.predict(batches, verbose=0)
    # The first epoch of a fit, and of a cut, traces.
    suffix = statistics.median(epochs(rest, features, y, ROUNDS + 1)[1:])
    plain = statistics.median(epochs(model, x, y, EPOCHS)[1:])
    cache = kf.PrefixCache(auto=False, verbose=0)
    later = epochs(model, x, y, EPOCHS, cache)[1:]
    return {
        "prefix": forward,
        "suffix": suffix,
        "plain": plain,
        "cached": statistics.median(later),
        "input_bytes": x[0].nbytes,
        "feature_bytes": features[0].nbytes,
    }


def run(rounds: int) -> None:
    """Measure what is missing."""
    done = {(row["what"], row["round"]) for row in runs.read(RESULTS)}
    for n in range(rounds):
        for what in runs.turned(["memory", "kept", *CASES], n):
            if (what, n) in done:
                continue
            if what in CASES:
                costs: dict[str, Any] = case_costs(what)
            else:
                costs = measured_store(what)
            runs.append(RESULTS, {"what": what, "round": n, **costs, "machine": runs.machine()})


def measured_store(what: str) -> dict[str, Any]:
    """Return what keys cost, and rows in memory or in a folder as `keep=True` has it."""
    if what == "memory":
        return store_costs(lambda: RowStore(Budget()))
    with tempfile.TemporaryDirectory() as folder:
        library = kf.PrefixCache(directory=folder, keep=True, verbose=0).new_library()
        number = iter(range(10**6))

        def make() -> Any:
            names = (next(number).to_bytes(16, "big"),)
            how = ("train", None, False, False, "scale", False)
            return library.shelf(how, names, [False], [], "scale").store

        return store_costs(make)


Costs = dict[str, tuple[float, float]]


def fitted(rows: Sequence[dict[str, Any]], what: str) -> Costs:
    """Return the seconds for a row and for a byte of key, put and get."""
    own = [row for row in rows if row["what"] == what]
    return {
        part: per_row({n: statistics.median(row[part][str(n)] for row in own) for n in ROW_BYTES})
        for part in ("key", "put", "get")
    }


def host_seconds(costs: Costs, input_bytes: float, feature_bytes: float) -> float:
    """Return what the host does for a sample that is looked up."""
    (key_row, key_byte), (get_row, get_byte) = costs["key"], costs["get"]
    return key_row + key_byte * input_bytes + get_row + get_byte * feature_bytes


def check_table(rows: Sequence[dict[str, Any]]) -> str:
    """Compare epochs with what their parts add up to."""
    cases = case_medians(rows)
    lines = [
        "| model | features of a sample | plain epoch: measured / parts | cached epoch: measured / "
        "parts | cached to plain, measured | from the parts |",
        "|---|---|---|---|---|---|",
    ]
    for name, mid in cases.items():
        step = step_seconds(case for other, case in cases.items() if other != name) / BATCH
        plain = mid["prefix"] + mid["suffix"]
        cached = mid["suffix"] + mid["host"] + step
        cells = [
            name,
            f"{mid['feature_bytes'] / 1024:.1f} KiB",
            f"{mid['plain'] / plain:.2f}",
            f"{mid['cached'] / cached:.2f}",
            f"{mid['cached'] / mid['plain']:.3f}",
            f"{cached / plain:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def case_medians(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the medians of what was measured of each model, with the host's part."""
    memory, found = fitted(rows, "memory"), {}
    for name in CASES:
        own = [row for row in rows if row["what"] == name]
        if own:
            mid = {key: statistics.median(row[key] for row in own) for key in PARTS}
            mid["host"] = host_seconds(memory, mid["input_bytes"], mid["feature_bytes"])
            found[name] = mid
    return found


def step_seconds(cases: Iterable[dict[str, float]]) -> float:
    """Return what a step that is cut takes for itself, from whole epochs."""
    return BATCH * statistics.mean(case["cached"] - case["suffix"] - case["host"] for case in cases)


def store_table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out what a row and a byte cost on the host."""
    lines = ["| | microseconds for a row | GB/s |", "|---|---|---|"]
    names = {"key": "key of an input", "put": "keep a row", "get": "look a row up"}
    for what in ("memory", "kept"):
        for part, (row, byte) in fitted(rows, what).items():
            if part == "key" and what == "kept":
                continue
            where = "" if part == "key" else " in memory" if what == "memory" else " in a folder"
            rate = f"{1e-9 / byte:.1f}" if byte else "-"
            lines.append(f"| {names[part]}{where} | {1e6 * row:.1f} | {rate} |")
    return "\n".join(lines)


def expectation_table(rows: Sequence[dict[str, Any]]) -> str:
    """Say what to expect of large backbones, by how many of their blocks train."""
    memory = fitted(rows, "memory")
    lines = [
        "| backbone | blocks that train | cached epoch to plain, one GPU | with look-ups ahead of "
        f"the step | {GPUS} GPUs, one process | with look-ups ahead | GPUs that a process can feed "
        "| features of a million samples |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, of in BACKBONES.items():
        for trained in (1, of.blocks // 4, of.blocks // 2):
            lines.append(f"| {name} | {trained} of {of.blocks} {_expected(of, trained, memory)}")
    return "\n".join(lines)


def _expected(of: Backbone, trained: int, memory: Costs) -> str:
    prefix = (of.blocks - trained) * of.block_flops / FLOPS
    suffix = 3 * trained * of.block_flops / FLOPS
    host = host_seconds(memory, of.input_bytes, of.feature_bytes) + of.feature_bytes / PCIE
    plain = prefix + suffix
    cells = [
        f"{(suffix + host) / plain:.2f}",
        f"{max(suffix, host) / plain:.2f}",
        f"{(suffix / GPUS + host) / (plain / GPUS):.2f}",
        f"{max(suffix / GPUS, host) / (plain / GPUS):.2f}",
        f"{suffix / host:.1f}",
        f"{SAMPLES * of.feature_bytes / 1e12:.2f} TB",
    ]
    return f"| {' | '.join(cells)} |"


def folder_table(rows: Sequence[dict[str, Any]]) -> str:
    """Compare what a kept folder takes and gives with what a GPU computes and trains."""
    kept = fitted(rows, "kept")
    lines = [
        "| backbone, last block trains | samples/s that a GPU computes | that a folder takes | "
        "that a GPU trains | that a folder gives to a process |",
        "|---|---|---|---|---|",
    ]
    for name, of in BACKBONES.items():
        put_row, put_byte = kept["put"]
        seconds = [
            (of.blocks - 1) * of.block_flops / FLOPS,
            put_row + put_byte * of.feature_bytes,
            3 * of.block_flops / FLOPS,
            host_seconds(kept, of.input_bytes, of.feature_bytes),
        ]
        rates = [f"{1 / each:,.0f}" for each in seconds]
        lines.append(f"| {name} | {' | '.join(rates)} |")
    return "\n".join(lines)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out all of it, as Markdown."""
    parts = (store_table, check_table, expectation_table, folder_table)
    return "\n\n".join(part(rows) for part in parts)


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.rounds)
    print(table(runs.read(RESULTS)))


if __name__ == "__main__":
    main()
