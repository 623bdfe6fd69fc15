"""Measure what a search saves by sharing frozen layers: against stock KerasTuner, and a floor.

    python benchmarks/search.py run
    python benchmarks/search.py table

The same search of freeze depth and learning rate, VGG16 on 512 + 128 images of 64 x 64 pixels, 5
epochs a trial, by `keras_tuner.GridSearch` and by `keras_freeze.tuning.RandomSearch`, until the
space is used up; both build with `tuning.freeze_depth`. The floor passes all samples once through
each frozen part and trains every rest of the model alone. Each arm runs in a process of its own,
the arms in turns. A third search, of 30 short trials, shows how the memory of one process grows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import runs

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "search.jsonl"
ARMS = ["stock", "keras_freeze", "floor"]
WHAT = {
    "all-depths": "all 6 depths x 2 rates",
    "deepest": "the 3 deepest x 4 rates",
}
CASES = {**dict.fromkeys(WHAT, ARMS), "memory": ARMS[:2]}


def run(rounds: int, cases: Sequence[str], arms: Sequence[str]) -> None:
    """Measure what is missing, the arms of a case in turns."""

    def command(case: str, arm: str) -> list[str]:
        return [sys.executable, str(HERE / "search_arms.py"), case, arm]

    chosen = {case: [arm for arm in CASES[case] if arm in arms] for case in cases}
    runs.in_turns(RESULTS, chosen, rounds, command)


def same_scores(rows: list[dict[str, Any]], case: str) -> bool:
    """Tell whether all runs of both tuners scored every trial alike, to the last bit."""
    tuners = [r for r in rows if r["case"] == case and r["arm"] != "floor"]
    are_both = len({r["arm"] for r in tuners}) == 2
    return are_both and all(r["scores"] == tuners[0]["scores"] for r in tuners)


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out what was measured, as Markdown."""
    lines = [
        "| search | arm | time to stock | to the floor | seconds | peak memory, MB | same scores |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, what in WHAT.items():
        for arm, own in runs.medians(rows, case, ARMS, ("stock", "floor")).items():
            ratios = [f"{own[key]:.3f}" if key in own else "" for key in ("to_stock", "to_floor")]
            same = "" if arm == "floor" else "yes" if same_scores(rows, case) else "no"
            cells = [what, arm, *ratios, f"{own['seconds']:.1f}", f"{own['peak_mb']:.0f}", same]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| 30 trials | resident after 5, MB | after 30, MB | growth a trial, MB |"]
    lines.append("|---|---|---|---|")
    for arm in ARMS[:2]:
        own = [r["resident_bytes"] for r in rows if (r["case"], r["arm"]) == ("memory", arm)]
        if own:
            early, late = (statistics.median(r[n] / 2**20 for r in own) for n in (4, 29))
            lines.append(f"| {arm} | {early:.0f} | {late:.0f} | {(late - early) / 25:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--rounds", type=int, default=3, help="processes of each arm")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.rounds, arguments.cases, arguments.arms)
    print(table(runs.read(RESULTS)))


if __name__ == "__main__":
    main()
