"""Check `kf.suggest`: is its depth that of the best training?

Six tasks of `adaptive_tasks.py`: photographs, sentences, names, roles in source text, handwritten
digits and faces. The rule for the depth was made after the first five had been seen, the faces were
looked at afterwards. `kf.suggest` gets the training data and the labels, nothing else. The best
depth is that of trainings at every depth with the same seed, at the task's middle rate and the
default group rates, by validation loss; those that `adaptive.py` has not made are made here. A
suggestion is held to be right within one group. What the results hold is not asked again: remove
`results/suggest.jsonl` when the rule changes.

    python benchmarks/suggest.py run --seeds 3
    python benchmarks/suggest.py table
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import adaptive
import adaptive_tasks
import keras
import runs
from adaptive_tasks import TASKS

import keras_freeze as kf

RESULTS = Path(__file__).parent / "results" / "suggest.jsonl"


def measure(name: str, seed: int) -> None:
    """Ask for a suggestion, and write it down with what the trainings of that seed found."""
    task = TASKS[name]
    data, model = task.load(seed), task.build(seed)
    model.compile(keras.optimizers.Adam(task.rates[1]), adaptive_tasks.LOSS)
    began = time.process_time()
    found = kf.suggest(model, data.train.x, data.train.y, backbone=task.backbone)
    row: dict[str, Any] = {"task": name, "seed": seed, "depth": found.depth}
    row |= {"similarity": found.similarity, "cpu_s": round(time.process_time() - began, 2)}
    row["probes"] = [
        [p.name, round(p.score.value, 3), round(p.shuffled.value, 3)] for p in found.probes
    ]
    runs.append(RESULTS, {**row, "machine": runs.machine()})


def trainings(name: str, seed: int) -> None:
    """Train at the depths that are missing, at the middle rate."""
    task = TASKS[name]
    wanted = [(f"depth {depth}", task.rates[1]) for depth in range(task.groups)]
    done = {(row["arm"], row["rate"]) for row in _trainings(name, seed)}
    missing = [one for one in wanted if one not in done]
    if missing:
        adaptive.measure(name, seed, missing, is_timed=False)


def _trainings(name: str, seed: int) -> list[dict[str, Any]]:
    rows = [row for row in runs.read(adaptive.RESULTS) if row["task"] == name]
    return [row for row in rows if row["seed"] == seed and row["rate"] == TASKS[name].rates[1]]


def table() -> str:
    """Lay out what was suggested beside what was best, as Markdown; costs in validation loss."""
    lines = [
        "| task | suggested | best depth, by seed | within one | what it costs | similarity |",
        "|---|---|---|---|---|---|",
    ]
    for name in TASKS:
        rows = [row for row in runs.read(RESULTS) if row["task"] == name]
        pairs, costs = [], []
        for row in rows:
            fixed = [r for r in _trainings(name, row["seed"]) if r["arm"].startswith("depth ")]
            if fixed:
                best = min(fixed, key=lambda r: r["val_loss"])
                pairs.append((row["depth"], int(best["arm"].split()[1])))
                losses = {r["arm"]: r["val_loss"] for r in fixed}
                costs.append(losses[f"depth {row['depth']}"] - best["val_loss"])
        if pairs:
            near = sum(abs(own - best) <= 1 for own, best in pairs)
            own = ", ".join(str(depth) for depth, _ in pairs)
            best = ", ".join(str(depth) for _, depth in pairs)
            kind = statistics.mode(row["similarity"] for row in rows)
            cost = f"+{statistics.mean(costs):.3f}"
            cells = [name, own, best, f"{near} of {len(pairs)}", cost, kind]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("tasks", nargs="*", default=[*TASKS])
    parser.add_argument("--seeds", type=int, default=3, help="how many (%(default)s)")
    arguments = parser.parse_args()
    if arguments.what == "run":
        known = {(row["task"], row["seed"]) for row in runs.read(RESULTS)}
        for name in arguments.tasks:
            for seed in range(arguments.seeds):
                if (name, seed) not in known:
                    measure(name, seed)
                trainings(name, seed)
    print(table())


if __name__ == "__main__":
    main()
