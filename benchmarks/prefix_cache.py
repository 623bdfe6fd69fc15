"""Measure what the prefix cache saves: against plain Keras, a floor, and the peers on torch.

    python benchmarks/prefix_cache.py run             # all cases, three rounds
    python benchmarks/prefix_cache.py run --case head-10
    python benchmarks/prefix_cache.py table           # what was measured

Each arm of a case runs in a process of its own, the arms in turns, so that whatever else the
machine does falls on all of them. A process prints the seconds of its training (data, models
and imports are ready by then), those of an epoch after the first, in which nothing is compiled, and
the operating system's peak of its memory. The floor is what a user would do by hand, and what a
cache without look-ahead can't beat: one pass of all samples through the frozen layers, and the
epochs of the rest of the model alone, on ready features. "ahead" computes four batches at once,
"kept" is a second, identical fit that finds the features of the first, "device" leaves the features
on the device. Runs that are in the results file are kept.

The arms on torch need an environment with `lightning` and `finetuning-scheduler`, whose Python
is given by `--peers`; without it they are left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import keras
import runs

HERE = Path(__file__).parent
# Runs with an accelerator have a file of their own for each backend.
ON = f"_gpu_{keras.backend.backend()}" if runs.accelerator() else ""
RESULTS = HERE / "results" / f"prefix_cache{ON}.jsonl"
PEERS = ("lightning", "finetuning-scheduler")
# The arm and the case that are for a machine with an accelerator.
ON_GPU = {"device", "large"}
# Case to its arms; the first is what the others are compared with.
CASES = {
    "head-10": ["plain", "cache", "ahead", "kept", "device", "floor", *PEERS],
    "head-30": ["plain", "cache", "floor"],
    "gradual-15": ["plain", "cache", "floor", *PEERS],
    "resnet50": ["plain", "cache", "ahead", "kept", "device", "floor"],
    "transformer": ["plain", "cache", "ahead", "floor"],
    "lstm": ["plain", "cache", "ahead", "floor"],
    "cache-off": ["plain", "cache"],
    "transitions": ["plain", "cache"],
    "too-small": ["plain", "cache"],
    "augmented": ["plain", "cache"],
    "samples": ["plain", "cache"],
    "area": ["plain", "cache"],
    "large": ["plain", "cache", "device", "floor"],
}
WHAT = {
    "head-10": "head only, VGG16 64x64, 512 + 128 images, 10 epochs",
    "head-30": "the same, 30 epochs",
    "gradual-15": "head, block5, block4, 5 epochs each",
    "resnet50": "head only, ResNet50 64x64, 512 + 128 images, 10 epochs",
    "transformer": "head only, 4 blocks, 512 + 128 texts, 10 epochs",
    "lstm": "head only, 3 LSTMs, 512 + 128 texts, 10 epochs",
    "cache-off": "gradual-15 with cache=False against the recipe by hand",
    "transitions": "a transition an epoch against compile() and a new fit()",
    "too-small": "a small dense model, where the cache stays away",
    "augmented": "head only with random augmentation, 4 epochs",
    "samples": "head only, 5 epochs: 4x the samples (cache) against 1x (plain)",
    "area": "head only, 5 epochs: 4x the image area (cache) against 1x (plain)",
    "large": "head only, ResNet50 224x224, 2048 + 512 images, 10 epochs",
}


def run(cases: list[str], rounds: int, peers: str | None) -> None:
    """Measure what is missing, the arms of a case in turns."""

    def command(case: str, arm: str) -> list[str] | None:
        if ON_GPU & {case, arm} and not runs.accelerator():
            return None
        if arm not in PEERS:
            return [sys.executable, str(HERE / "prefix_cache_arms.py"), case, arm]
        return None if peers is None else [peers, str(HERE / "prefix_cache_peers.py"), case, arm]

    runs.in_turns(RESULTS, {case: CASES[case] for case in cases}, rounds, command)


def medians(rows: list[dict[str, Any]], case: str) -> dict[str, dict[str, float]]:
    """Return for each arm of a case the medians, and of the ratios round by round."""
    return runs.medians(rows, case, CASES[case], ("plain", "floor"))


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out what was measured, as Markdown."""
    lines = [
        "| case | arm | time to plain | to the floor | seconds | a later epoch | peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        for arm, own in medians(rows, case).items():
            ratios = [f"{own[key]:.3f}" if key in own else "" for key in ("to_plain", "to_floor")]
            cells = [WHAT[case], arm, *ratios, f"{own['seconds']:.1f}"]
            epoch = f"{own['epoch_s']:.3f}" if "epoch_s" in own else ""
            cells += [epoch, f"{own['peak_mb']:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw the time of each arm as a part of plain Keras's."""
    import matplotlib.pyplot as plt

    shown = ["head-10", "head-30", "gradual-15", "resnet50", "transformer", "lstm"]
    cases = [case for case in shown if "cache" in medians(rows, case)]
    names = {"cache": "keras_freeze", "floor": "floor", "lightning": "Lightning"}
    names["finetuning-scheduler"] = "FinetuningScheduler"
    colors = dict(zip(names, ["#1f77b4", "#b0b0b0", "#ff7f0e", "#d62728"], strict=True))
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    for place, case in enumerate(cases):
        own = medians(rows, case)
        arms = [arm for arm in names if "to_plain" in own.get(arm, {})]
        for n, arm in enumerate(arms):
            value = own[arm]["to_plain"]
            x = place + (n - (len(arms) - 1) / 2) * 0.2
            label = names[arm] if place == 0 else None
            axes.bar(x, value, 0.18, color=colors[arm], label=label)
            on_white = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
            axes.text(x, value + 0.02, f"{value:.2f}", ha="center", fontsize=8, bbox=on_white)
    axes.axhline(1.0, color="black", linewidth=0.8, zorder=0)
    axes.text(len(cases) - 0.5, 1.02, "plain Keras", ha="right", fontsize=8)
    axes.set_xticks(range(len(cases)), cases)
    axes.set_ylabel("training time, plain Keras = 1")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.12))
    figure.savefig(file, dpi=150)


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--case", action="append", choices=list(CASES), help="only these")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each arm")
    parser.add_argument("--peers", help="the Python of an environment with the peers")
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.case or list(CASES), arguments.rounds, arguments.peers)
    rows = runs.read(RESULTS)
    print(table(rows))
    picture(rows, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
