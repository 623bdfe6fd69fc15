"""Metrics by which phases end and weights are kept: which value is better, and missing ones."""

import re

import numpy as np
import pytest

from keras_freeze.schedules.metrics import direction, direction_by_name, improves, monitored


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("loss", "min"),
        ("val_loss", "min"),
        ("head_loss", "min"),
        ("val_mean_squared_error", "min"),
        ("mae", "min"),
        ("sparse_categorical_crossentropy", "min"),
        ("perplexity", "min"),
        ("accuracy", "max"),
        ("val_acc", "max"),
        ("val_auc_1", "max"),
        ("val_sparse_top_k_categorical_accuracy", "max"),
        ("f1_score", "max"),
        ("precision", "max"),
        ("val_quality", None),
        ("vacancy", None),
    ],
)
def test_the_name_of_a_metric_shows_which_is_better(name, direction):
    assert direction_by_name(name) == direction


MISSING = {
    "no validation": (
        {"loss": 1.0, "accuracy": 0.5},
        "OnPlateau(monitor=...) must name a metric of this fit. Received: 'val_loss'. Pass "
        "validation_data= to fit, and validation_freq=1. Available metrics: loss, accuracy.",
    ),
    "misspelt": (
        {"loss": 1.0, "val_lossy": 0.5},
        "OnPlateau(monitor=...) must name a metric of this fit. Received: 'val_loss'. Did you mean "
        "'val_lossy' or 'loss'? Available metrics: loss, val_lossy.",
    ),
    "nothing like it": (
        {"val_mean_io_u": 1.0},
        "OnPlateau(monitor=...) must name a metric of this fit. Received: 'val_loss'. Available "
        "metrics: val_mean_io_u.",
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_missing_metric(case):
    logs, message = MISSING[case]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        monitored("OnPlateau", "val_loss", logs)


def test_a_value_comes_as_a_float():
    value = monitored("OnPlateau", "loss", {"loss": np.float32(0.5)})
    assert type(value) is float
    assert value == 0.5


IMPROVES = {  # a value, the best so far, the least difference, the mode
    "the first": (5.0, None, 0.0, "min", True),
    "the first, not finite": (float("nan"), None, 0.0, "min", False),
    "lower": (0.9, 1.0, 0.0, "min", True),
    "equal": (1.0, 1.0, 0.0, "min", False),
    "lower by too little": (0.9, 1.0, 0.2, "min", False),
    "higher": (1.1, 1.0, 0.0, "max", True),
    "higher by too little": (1.1, 1.0, 0.2, "max", False),
    "infinite": (float("inf"), 1.0, 0.0, "max", False),
}


@pytest.mark.parametrize("case", IMPROVES)
def test_what_is_an_improvement(case):
    *arguments, expected = IMPROVES[case]
    assert improves(*arguments) is expected


def test_a_given_direction_needs_no_name():
    assert direction("OnPlateau", "quality", "max") == "max"
    assert direction("OnPlateau", "loss", "max") == "max"
    assert direction("OnPlateau", "loss", "auto") == "min"
