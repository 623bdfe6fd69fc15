"""ULMFiT's ablation in small: how to fine-tune a pretrained stack of LSTMs on few examples.

A language model of three LSTMs learns to read Python on the standard library. With a new head
it then says within what kind of statement a snippet breaks off. Each arm fine-tunes it in
another way. First each arm's learning rate is chosen on validation data with seeds of its own;
then the arm trains at that rate with ten other seeds, and only these are scored on test data.

    python benchmarks/ulmfit.py run     # pretrain, choose the rates, measure
    python benchmarks/ulmfit.py table   # print what was measured

Results are appended to a file, a line a run, and runs that it holds are skipped: stop the
process whenever you like and start it again. The language model is kept in a cache folder.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import hashlib
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import runs
import snippets
from rich.console import Console
from rich.table import Table

import keras_freeze as kf
from keras_freeze.schedules import FreezeSchedule, Phase, SlantedTriangular, gradual

RESULTS = Path(__file__).parent / "results" / "ulmfit.jsonl"
CACHE = Path(__file__).parent / "cache"

WIDTH = 96
LSTMS = 3
READING = {"epochs": 4, "batch": 32, "rate": 4e-3}

PER_CLASS = 16
BATCH = 8
EPOCHS = 8
HEAD_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
TUNING_SEEDS = range(100, 103)
SEEDS = range(10)
FITS_A_PROCESS = 20  # TensorFlow gets slower and larger with every model


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to fine-tune.

    Attributes:
        name: What the tables call it.
        schedule: `"all"` (nothing frozen), `"last"` (the head alone), or what `GradualUnfreeze`
            takes.
        rates: Group rates, as for `GradualUnfreeze`.
        triangle: Whether every phase has a slanted triangular learning rate.
        pretrained: Whether training begins from the language model.
    """

    name: str
    schedule: str | int = "all"
    rates: str | None = None
    triangle: bool = False
    pretrained: bool = True

    def callback(self, groups: tuple[str, ...]) -> Any:
        """Return the callback that trains a model with these groups in this way."""
        if self.schedule in ("all", "last"):
            frozen = groups[:-1] if self.schedule == "last" else ()
            phase = Phase(frozen, rates=self.rates, curve=self._curve())
            return kf.FreezeScheduler(FreezeSchedule([phase]), verbose=0)
        if self.triangle:
            schedule = gradual(groups, self.schedule, rates=self.rates, curve=self._curve())
            return kf.FreezeScheduler(schedule, verbose=0)
        return kf.GradualUnfreeze(self.schedule, rates=self.rates, verbose=0)

    def _curve(self) -> SlantedTriangular | None:
        return SlantedTriangular() if self.triangle else None


ARMS = (
    Arm("from scratch", pretrained=False),
    Arm("all at once"),
    Arm("all at once, group rates", rates="default"),
    Arm("all at once, group rates, triangle", rates="default", triangle=True),
    Arm("last layer", "last"),
    Arm("gradual", 1),
    Arm("gradual, group rates", 1, "default"),
    Arm("gradual, group rates, triangles", 1, "default", triangle=True),
    Arm("`GradualUnfreeze()`", "even", "default"),
)
REFERENCE = "all at once"


def reader() -> Any:
    """Build the language model. Without the sums, so short a training learns next to nothing."""
    inputs = keras.Input((None,), dtype="int32", name="pieces")
    x = keras.layers.Embedding(snippets.VOCABULARY + 1, WIDTH, name="embedding")(inputs)
    for n in range(1, LSTMS + 1):
        read = keras.layers.LSTM(WIDTH, return_sequences=True, name=f"lstm_{n}")(x)
        x = keras.layers.Add(name=f"sum_{n}")([x, read])
    x = keras.layers.Dense(snippets.VOCABULARY + 1, name="next_piece")(x)
    return keras.Model(inputs, x, name="reader")


def pretrain(text: Any) -> Any:
    """Train the reader to predict the next piece, everywhere in a text."""
    keras.utils.set_random_seed(0)
    model, length = reader(), snippets.LENGTH
    count = (len(text) - length) // length
    steps = READING["epochs"] * -(-count // READING["batch"])
    rate = keras.optimizers.schedules.CosineDecay(READING["rate"], steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0), loss)
    for epoch in range(READING["epochs"]):  # each cuts the text at other places
        start = epoch * length // READING["epochs"]
        x, y = (text[s : s + count * length].reshape(-1, length) for s in (start, start + 1))
        model.fit(x, y, batch_size=READING["batch"], verbose=0)
    return model


def classifier(weights: list[Any] | None, seed: int) -> Any:
    """Put a new head on a reader's stack: ULMFiT's, last, highest and mean output together."""
    keras.utils.set_random_seed(seed)
    stack = reader()
    if weights is not None:
        stack.set_weights(weights)
    x = stack.get_layer(f"sum_{LSTMS}").output
    highest = keras.layers.GlobalMaxPooling1D(name="highest")(x)
    mean = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    x = keras.layers.Concatenate(name="concat_pooling")([x[:, -1], highest, mean])
    x = keras.layers.Dropout(0.2, name="dropout")(x)
    x = keras.layers.Dense(64, "relu", name="hidden")(x)
    x = keras.layers.Dense(len(snippets.KINDS), "softmax", name="kind")(x)
    return keras.Model(stack.input, x, name="classifier")


@functools.cache
def prepared(cache: Path) -> tuple[snippets.Task, list[Any], dict[str, Any]]:
    """Return the task, the language model's weights and facts about it; pretrain if need be."""
    words = snippets.pretraining_text()
    numbers = snippets.vocabulary(words)
    text = snippets.encode(words, numbers)
    recipe = f"{WIDTH} {LSTMS} {READING} {keras.__version__}".encode()
    file = cache / f"reader-{hashlib.sha256(text.tobytes() + recipe).hexdigest()[:12]}.keras"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        pretrain(text).save(file)
    model = reader()
    model.load_weights(file)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    task = snippets.Task(numbers)
    x = task.validation.x
    loss = model.evaluate(x[:, :-1], x[:, 1:], batch_size=96, verbose=0)
    about = {"pieces": len(text), "perplexity": round(float(np.exp(loss)), 2)}
    return task, model.get_weights(), about


def measure(arm: Arm, head_rate: float, seed: int, is_final: bool, cache: Path) -> dict[str, Any]:
    """Train once and return what is written down about it."""
    keras.backend.clear_session()
    task, weights, _ = prepared(cache)
    model = classifier(weights if arm.pretrained else None, seed)
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(head_rate), loss, metrics=["accuracy"])
    callback = arm.callback(tuple(group.name for group in kf.layer_groups(model)))
    data = task.train(seed, PER_CLASS)
    keras.utils.set_random_seed(seed)  # what is drawn from now on is alike in all arms
    options = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, "callbacks": [callback]}
    began, worked = time.perf_counter(), time.process_time()
    history = model.fit(data.x, data.y, **options)
    return {
        "fit_s": round(time.perf_counter() - began, 2),
        "processor_s": round(time.process_time() - worked, 2),
        "train_accuracy": round(history.history["accuracy"][-1], 5),
        "validation_accuracy": accuracy(model, task.validation),
        **({"test_accuracy": accuracy(model, task.test)} if is_final else {}),
    }


def accuracy(model: Any, data: snippets.Snippets) -> float:
    """Return the share of snippets that a model gets right."""
    result = model.evaluate(data.x, data.y, batch_size=96, verbose=0, return_dict=True)
    return round(result["accuracy"], 5)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a run is known by."""
    return row["stage"], row["arm"], row["head_rate"], row["seed"]


def tuning() -> Iterator[dict[str, Any]]:
    """Yield the runs that choose the rates, seed by seed."""
    for seed in TUNING_SEEDS:
        for head_rate in HEAD_RATES:
            for arm in ARMS:
                yield {"stage": "tune", "arm": arm.name, "head_rate": head_rate, "seed": seed}


def final(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the runs that are scored on test data, each arm at its chosen rate."""
    for seed in SEEDS:
        for arm in ARMS:
            rate = chosen_rate(arm.name, rows)
            yield {"stage": "test", "arm": arm.name, "head_rate": rate, "seed": seed}


def validation(name: str, head_rate: float, rows: list[dict[str, Any]]) -> list[float]:
    """Return an arm's validation accuracies at a rate, over the tuning seeds."""
    wanted = [("tune", name, head_rate, seed) for seed in TUNING_SEEDS]
    return [row["validation_accuracy"] for row in rows if key(row) in wanted]


def chosen_rate(name: str, rows: list[dict[str, Any]]) -> float:
    """Return the rate at which an arm has the best mean validation accuracy."""
    return max(HEAD_RATES, key=lambda rate: statistics.mean(validation(name, rate, rows)))


def fits(file: Path) -> list[dict[str, Any]]:
    """Return the fits in a results file; it holds facts about the machine and the reader too."""
    return [row for row in runs.read(file) if row["stage"] in ("tune", "test")]


def start_process(cache: Path) -> None:
    """Make a new process ready, so that its first run takes no longer than the others."""
    runs.use_one_core()
    task, weights, _ = prepared(cache)
    model = classifier(weights, 0)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(task.validation.x[:BATCH], task.validation.y[:BATCH], verbose=0)


def facts(cache: Path) -> dict[str, Any]:
    """Return what the results depend on besides the seeds."""
    return {"stage": "facts", **runs.machine(), "reader": prepared(cache)[2]}


def run(file: Path, cache: Path) -> None:
    """Do the runs that the results do not hold yet, in fresh processes, one at a time."""
    pool = concurrent.futures.ProcessPoolExecutor(
        1,
        multiprocessing.get_context("spawn"),
        start_process,
        (cache,),
        max_tasks_per_child=FITS_A_PROCESS,
    )
    arms = {arm.name: arm for arm in ARMS}
    with pool:
        if not runs.read(file):
            runs.append(file, pool.submit(facts, cache).result())
        for stage in (tuning, lambda: final(fits(file))):
            for row in stage():
                if key(row) in set(map(key, fits(file))):
                    continue
                arm, is_final = arms[row["arm"]], row["stage"] == "test"
                job = pool.submit(measure, arm, row["head_rate"], row["seed"], is_final, cache)
                runs.append(file, row | job.result())


def tuning_table(rows: list[dict[str, Any]]) -> Table:
    """Lay out the validation accuracy of every arm at every rate."""
    title = f"validation accuracy over {len(TUNING_SEEDS)} seeds; * = chosen"
    result = Table("arm", *(f"head at {rate:g}" for rate in HEAD_RATES), title=title)
    for arm in ARMS:
        best = chosen_rate(arm.name, rows)
        values = {rate: validation(arm.name, rate, rows) for rate in HEAD_RATES}
        cells = (f"{statistics.mean(v):.3f}{'*' * (r == best)}" for r, v in values.items())
        result.add_row(arm.name, *cells)
    return result


def by_seed(name: str, field: str, rows: list[dict[str, Any]]) -> dict[int, float]:
    """Return a field of an arm's test runs, seed by seed."""
    wanted = [row for row in rows if row["stage"] == "test" and row["arm"] == name]
    return {row["seed"]: row[field] for row in wanted}


def test_table(rows: list[dict[str, Any]]) -> Table:
    """Lay out the test accuracy of every arm, and its differences and time ratios to one."""
    title = f"test accuracy, mean ± 95 % CI over seeds; differences to {REFERENCE!r} in pairs"
    columns = ("arm", "rate", "test", "difference", "train", "fit", "time ratio")
    result = Table(*columns, title=title)
    base, base_s = (by_seed(REFERENCE, f, rows) for f in ("test_accuracy", "processor_s"))
    for arm in ARMS:
        own = by_seed(arm.name, "test_accuracy", rows)
        seconds = by_seed(arm.name, "processor_s", rows)
        if not own:
            continue
        pairs = [own[seed] - base[seed] for seed in own if seed in base]
        ratios = [seconds[seed] / base_s[seed] for seed in own if seed in base]
        result.add_row(
            f"{arm.name} (n={len(own)})",
            f"{chosen_rate(arm.name, rows):g}",
            runs.interval(list(own.values())),
            "–" if arm.name == REFERENCE else runs.interval(pairs, "+"),
            f"{statistics.mean(by_seed(arm.name, 'train_accuracy', rows).values()):.3f}",
            f"{statistics.median(seconds.values()):.1f} s",
            f"{statistics.median(ratios):.2f}",
        )
    return result


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of results")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the language model")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.results, arguments.cache)
    rows = fits(arguments.results)
    for table in (tuning_table, test_table):
        Console(width=120).print(table(rows))


if __name__ == "__main__":
    main()
