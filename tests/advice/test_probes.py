"""Linear probes against scikit-learn, and where the answer is known."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from keras_freeze.advice.probes import probe, targets_of

RNG = np.random.default_rng(0)


def folds(classes):
    """Return five folds, each with its part of each class."""
    order = np.random.default_rng(0).permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    return [(np.setdiff1d(order, order[n::5]), order[n::5]) for n in range(5)]


@pytest.mark.parametrize("samples, features", [(60, 5), (40, 100)])
def test_it_is_ridge_regression_with_scaled_features(samples, features):
    x = RNG.normal(size=(samples, features)) * RNG.uniform(0.1, 10, features) + 3
    classes = RNG.integers(0, 3, samples)
    x[:, 0] += 2 * classes
    targets, best = targets_of(classes), 0.0
    for penalty in (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0):
        guesses = np.zeros((samples, 3))
        for fitted, fold in folds(classes):
            ridge = make_pipeline(StandardScaler(), Ridge(penalty * features))
            guesses[fold] = ridge.fit(x[fitted], np.eye(3)[classes[fitted]]).predict(x[fold])
        best = max(best, (guesses.argmax(axis=1) == classes).mean())
    assert probe(x, targets).value == pytest.approx(best)


def test_what_can_be_told_and_what_can_not():
    x = RNG.normal(size=(400, 6))
    told = probe(x, targets_of((x[:, 0] > 0).astype(int)))
    assert told.value > 0.95
    noise = probe(x, targets_of(RNG.integers(0, 4, 400)))
    assert abs(noise.value - 0.25) < 0.1
    assert noise.error == pytest.approx(np.sqrt(noise.value * (1 - noise.value) / 400))


def test_numbers_are_scored_by_the_variance_that_is_explained():
    x = RNG.normal(size=(300, 3))
    assert probe(x, targets_of(x @ [1.0, -2.0, 0.5])).value > 0.999
    assert probe(x, targets_of(RNG.normal(size=300))).value < 0.1


def test_features_that_are_constant_tell_nothing():
    x = np.ones((50, 3))
    assert probe(x, targets_of(np.arange(50) % 2)).value == 0.5


@pytest.mark.parametrize(
    "labels, count",
    [
        ([3, 5, 3], 2),
        ([[1.0, 0.0], [0.0, 1.0]], 2),
        ([True, False], 2),
        ([[2], [0]], 2),
        ([0.0, 1.0, 1.0], 2),
        ([0.1, 0.7], None),
        (np.arange(30.0), None),
        ([[1, 1], [0, 1]], None),
    ],
)
def test_classes_and_numbers(labels, count):
    assert targets_of(np.array(labels)).count == count


@pytest.mark.parametrize("labels", [["a", "b"], [], [0.0, np.nan], np.zeros((2, 3, 3))])
def test_other_labels_are_refused(labels):
    assert targets_of(np.array(labels)) is None
