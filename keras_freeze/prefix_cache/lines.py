"""The two lines that a cache prints: what was decided, and what it gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_freeze.prefix_cache.audit import to_host
from keras_freeze.prefix_cache.model_cut import Frontier
from keras_freeze.prefix_cache.statistics import Statistics
from keras_freeze.reports import readable_bytes


def of_cut(
    frontier: Frontier, features: Sequence[Any], rows: int, steps: int | None, inference: bool
) -> str:
    """Say where a model is cut, what is kept there and what it saves.

    Args:
        frontier: Where it is cut.
        features: What crosses the cut for one batch.
        rows: Int, its samples.
        steps: Int, batches in an epoch; None if that is not known.
        inference: Bool, whether frozen layers run as at inference.
    """
    row_bytes = sum(to_host(tensor).nbytes for tensor in features) / max(1, rows)
    samples = f"up to {steps * rows:,} samples" if steps else "samples"
    total = f", {readable_bytes(row_bytes * steps * rows)}" if steps else ""
    text = (
        f"cache: {samples} at {frontier.name}{total}; skips {int(100 * frontier.share)} % of the "
        "forward pass"
    )
    if frontier.ended_by:
        text += f". It ends there since {frontier.ended_by}"
    if inference:
        text += ". Frozen layers run as at inference: nothing is dropped in them"
    return f"{text}."


def of_fit(statistics: Statistics) -> str:
    """Say what a cache gave in a fit."""
    count = statistics.hits + statistics.misses
    return (
        f"cache: {100 * statistics.hit_rate:.0f} % of {count:,} samples were looked up; at most "
        f"{readable_bytes(statistics.nbytes)} kept; saved about "
        f"{max(0.0, statistics.saved_s):.1f} s."
    )
