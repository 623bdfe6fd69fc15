"""Linear probes: how well a task can be told from some features, by a ridge regression. Pure."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

# Penalties that are tried, as parts of the mean square of the features.
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
_FOLDS = 5
# Float targets with more values than this are numbers, not classes.
_MAX_CLASSES = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Targets:
    """What is to be told.

    Attributes:
        values: Array of shape `(samples, columns)`: a column for each class, or each number.
        classes: Array of int, the class of each sample; None for numbers.
    """

    values: np.ndarray[Any, Any]
    classes: np.ndarray[Any, Any] | None

    @property
    def count(self) -> int | None:
        """The number of classes; None for numbers."""
        return None if self.classes is None else self.values.shape[1]

    @property
    def guess(self) -> float:
        """The score of a probe that knows nothing: that of the most frequent class; 0 for R²."""
        if self.classes is None:
            return 0.0
        return float(np.bincount(self.classes).max() / len(self.classes))

    def first(self, count: int) -> Targets:
        """Return those of the first samples."""
        return Targets(self.values[:count], None if self.classes is None else self.classes[:count])


def targets_of(y: Any, *, are_numbers: bool = False, are_classes: bool = False) -> Targets | None:
    """Return labels as targets; None where they are neither classes nor numbers.

    Args:
        y: Class numbers, columns of 0 and 1 with one 1 in each row, or numbers.
        are_numbers: Bool, whether whole numbers are no classes. Defaults to False.
        are_classes: Bool, whether whole numbers are classes, however many there are, and rows that
            add up to 1 the probabilities of classes. Defaults to False.

    Example:
        >>> targets_of(np.array([3, 1, 3])).classes
        array([1, 0, 1])
        >>> targets_of(np.linspace(0, 1, 30)).count is None
        True
    """
    labels = np.asarray(y)
    if labels.dtype.kind not in "biuf" or not labels.size or not np.isfinite(labels).all():
        return None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and (_is_one_hot(labels) or (are_classes and _are_parts(labels))):
        labels = labels.argmax(axis=1)
    if labels.ndim > 2:
        return None
    numbers = labels.astype("float64")
    kinds = np.unique(numbers) if labels.ndim == 1 else ()
    is_whole = labels.ndim == 1 and (numbers == np.floor(numbers)).all() and not are_numbers
    are_few = are_classes or labels.dtype.kind != "f" or len(kinds) <= _MAX_CLASSES
    if labels.ndim == 1 and is_whole and are_few:
        classes = np.searchsorted(kinds, numbers)
        return Targets(np.eye(len(kinds))[classes], classes)
    return Targets(numbers.reshape(len(numbers), -1), None)


def _is_one_hot(labels: np.ndarray[Any, Any]) -> bool:
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all())


def _are_parts(labels: np.ndarray[Any, Any]) -> bool:
    """Tell whether rows are parts of 1, as one-hot rows are that have been smoothed."""
    return bool((labels >= 0).all() and np.abs(labels.sum(axis=1) - 1).max() < 0.01)


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a probe does on samples that it was not fitted to.

    Attributes:
        value: Float: the part of the samples whose class it tells, or R², the part of the variance
            that it explains.
        error: Float, its standard error.
        measure: Str, "accuracy" or "R²".
    """

    value: float
    error: float
    measure: str = "accuracy"

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.error:.2f}"


def probe(features: np.ndarray[Any, Any], targets: Targets) -> Score:
    """Score a ridge regression from features to targets by five-fold cross-validation.

    Each feature is scaled by the samples that are fitted. The penalty is the best of six for all
    folds together, which favours no set of features over another.

    Args:
        features: Array of shape `(samples, features)`.
        targets: Of the same samples, at least ten.

    Returns:
        `Score`.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(60, 4))
        >>> probe(x, targets_of(x[:, 0] > 0)).value > 0.8
        True
    """
    x, y = np.asarray(features, "float64"), targets.values
    order = np.random.default_rng(0).permutation(len(x))
    if targets.classes is not None:  # each fold has its part of each class
        order = order[np.argsort(targets.classes[order], kind="stable")]
    guesses = np.zeros((len(_PENALTIES), *y.shape))
    for n in range(_FOLDS):
        fold = order[n::_FOLDS]
        fitted = np.setdiff1d(order, fold)
        guesses[:, fold] = _predictions(x[fitted], y[fitted], x[fold])
    return max((_score(guess, targets) for guess in guesses), key=lambda score: score.value)


def _predictions(
    x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], new: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return what ridge regressions predict, one for each penalty."""
    centre, spread = x.mean(axis=0), x.std(axis=0)
    keep = spread > 1e-9 * max(1.0, float(np.abs(centre).max(initial=0)))
    if not keep.any():
        return np.tile(y.mean(axis=0), (len(_PENALTIES), len(new), 1))
    x, new = ((part - centre)[:, keep] / spread[keep] for part in (x, new))
    mean = y.mean(axis=0)
    if len(x) > x.shape[1]:
        squares, vectors = np.linalg.eigh(x.T @ x)
        across, turned = new @ vectors, vectors.T @ (x.T @ (y - mean))
    else:  # the same by way of the samples, of which there are fewer
        squares, vectors = np.linalg.eigh(x @ x.T)
        across, turned = new @ x.T @ vectors, vectors.T @ (y - mean)
    found = []
    for penalty in _PENALTIES:
        shrunk = turned / (squares.clip(min=0.0) + penalty * x.shape[1])[:, None]
        found.append(mean + across @ shrunk)
    return np.array(found)


def _score(guess: np.ndarray[Any, Any], targets: Targets) -> Score:
    if targets.classes is not None:
        right = float((guess.argmax(axis=1) == targets.classes).mean())
        return Score(right, math.sqrt(right * (1 - right) / len(guess)))
    residuals = ((targets.values - guess) ** 2).sum(axis=1)
    variance = ((targets.values - targets.values.mean(axis=0)) ** 2).sum(axis=1)
    total = variance.mean() or 1.0
    return Score(
        float(1 - residuals.mean() / total),
        float(residuals.std() / total / math.sqrt(len(guess))),
        "R²",
    )
