import math

import numpy as np
import pytest

from keras_freeze.live.status import Metrics

NAN = math.nan


def curves(*logs, name=None):
    metrics = Metrics(name)
    for epoch, log in enumerate(logs):
        metrics.add(epoch, log)
    return {curve.name: curve for curve in metrics.curves()}


@pytest.mark.parametrize(
    ("logs", "name", "shown"),
    [
        ({"loss": 1, "top5": 1, "accuracy": 1}, None, ["loss", "accuracy"]),
        ({"loss": 1, "head_loss": 1, "auc": 1, "val_loss": 1, "val_auc": 1}, None, ["loss", "auc"]),
        ({"loss": 1, "mae": 1, "trainable_params": 4, "learning_rate": 0.1}, None, ["loss", "mae"]),
        ({"loss": 1, "mae": 1, "mse": 1}, "mse", ["loss", "mse"]),
        ({"loss": 1, "trainable_params": 4, "learning_rate/head": 0.1}, None, ["loss"]),
        ({"loss": 1}, "missing", ["loss"]),
        ({"mae": 1}, None, ["mae"]),
        ({"val_loss": 1}, None, ["loss"]),
        ({}, None, []),
    ],
)
def test_the_loss_and_one_metric_are_shown(logs, name, shown):
    assert list(curves(logs, name=name)) == shown


def test_what_is_no_number_is_a_gap():
    found = curves(
        {"loss": np.float32(2.0), "val_loss": None},
        {"loss": "high", "val_loss": np.ones(2)},
        {"loss": math.inf, "val_loss": 1.0},
    )["loss"]
    assert found.training[0] == 2.0
    assert math.isnan(found.training[1])
    assert found.training[2] == math.inf
    assert [math.isnan(value) for value in found.validation] == [True, True, False]


def test_epochs_of_a_history_come_first():
    metrics = Metrics(None)
    metrics.add_history([3, 4], {"loss": [3.0, 2.0], "val_loss": [4.0]})
    metrics.add(5, {"loss": 1.0})
    (loss,) = metrics.curves()
    assert (loss.epochs, loss.training) == ((3, 4, 5), (3.0, 2.0, 1.0))
    assert metrics.epochs_done == 6
    assert loss.validation[0] == 4.0
    assert math.isnan(loss.validation[1])


def test_without_validation_there_is_none():
    assert not curves({"loss": 1.0})["loss"].has_validation
    assert curves({"loss": 1.0}, {"loss": 1.0, "val_loss": 2.0})["loss"].has_validation
