"""Metrics that a phase watches: their value in the logs, and which of two values is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from keras_freeze.checks import ArgumentError, did_you_mean

Logs = Mapping[str, Any]
Direction = Literal["min", "max"]
Mode = Literal["auto", "min", "max"]

_LOWER = (
    *("loss", "error", "mse", "mae", "rmse", "mape", "msle"),
    *("crossentropy", "divergence", "perplexity", "hinge", "poisson", "logcosh"),
)
_HIGHER = frozenset(
    {"acc", "accuracy", "auc", "precision", "recall", "f1", "iou", "dice", "r2", "bleu", "rouge"}
)


def direction(owner: str, monitor: str, mode: str) -> Direction:
    """Return whether a metric is to fall or to rise; raise in the name of `owner` if unknown."""
    if mode not in get_args(Mode):
        raise ArgumentError(owner, "mode", 'be "auto", "min" or "max"', value=mode)
    if mode in ("min", "max"):
        return "min" if mode == "min" else "max"
    by_name = direction_by_name(monitor)
    if by_name is None:
        raise ArgumentError(
            owner,
            "mode",
            'be "min" or "max" where the name does not show which is better',
            received=f"monitor={monitor!r}, mode='auto'",
        )
    return by_name


def direction_by_name(monitor: str) -> Direction | None:
    """Return whether a metric is to fall or to rise by its name, None if that is unclear.

    Example:
        >>> direction_by_name("val_loss"), direction_by_name("val_accuracy")
        ('min', 'max')
        >>> direction_by_name("val_quality") is None
        True
    """
    words = monitor.lower().split("_")
    falls = any(word.startswith(_LOWER) or word.endswith(_LOWER) for word in words)
    rises = not _HIGHER.isdisjoint(words)
    if falls == rises:
        return None
    return "min" if falls else "max"


def improves(value: float, best: float | None, min_delta: float, mode: str) -> bool:
    """Tell whether a value is better than the best so far; one that is not finite never is."""
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return value < best - min_delta if mode == "min" else value > best + min_delta


def monitored(owner: str, monitor: str, logs: Logs, argument: str = "monitor") -> float:
    """Return a metric of an epoch as a float; raise in the name of `owner` if there is none."""
    if monitor not in logs:
        is_validated = any(name.startswith("val_") for name in logs)
        if monitor.startswith("val_") and not is_validated:
            advice = "Pass validation_data= to fit, and validation_freq=1. "
        else:
            advice = did_you_mean(monitor, list(logs))
        raise ArgumentError(
            owner,
            argument,
            "name a metric of this fit",
            received=repr(monitor),
            advice=f"{advice}Available metrics: {', '.join(logs)}.",
        )
    return float(logs[monitor])
