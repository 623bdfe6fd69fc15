"""How alike two representations of the same samples are: SVCCA and linear CKA. Pure.

A representation is an array of shape `(rows, features)`: a row for each sample, position, time step
or token. Both measures are 1 for representations that differ by a rotation and a scale alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_freeze.checks import ArgumentError

# So many rows a direction, at least: with fewer, noise correlates with noise.
_ROWS_PER_DIRECTION = 10
_FEWEST_ROWS = 4


class NotMeasurableError(ValueError):
    """Two representations of which a similarity says nothing."""


def svcca(x: Any, y: Any, *, variance: float = 0.99) -> float:
    """Return the mean canonical correlation of two representations' leading directions.

    Of each, the singular vectors are kept that explain most of its variance.

    Args:
        x: Array of shape `(rows, features)`.
        y: Array of shape `(rows, other_features)`, of the same rows.
        variance: Float above 0, at most 1, the part of the variance to keep. Defaults to 0.99.

    Returns:
        Float from 0 to 1.

    Raises:
        ValueError: if the shapes don't fit, if there are fewer than ten rows for each direction
            that is kept, or if a representation is the same in all rows.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(svcca(x, x @ [[0.0, 2.0, 0.0], [-2.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), 6)
        1.0

    Reference:
        - [Raghu et al., 2017](https://arxiv.org/abs/1706.05806).
    """
    one, two = _pair("svcca", x, y)
    if not 0 < variance <= 1:
        raise ArgumentError("svcca", "variance", "be above 0, at most 1", value=variance)
    first, second = _directions(one, variance), _directions(two, variance)
    most = max(first.shape[1], second.shape[1])
    if len(one) < _ROWS_PER_DIRECTION * most:
        raise NotMeasurableError(
            f"svcca(x, y) must get at least {_ROWS_PER_DIRECTION} rows for each direction, or "
            f"noise looks alike. Received: {len(one)} rows, and {most} directions with "
            f"{variance:.0%} of the variance. Give more samples, or use cka."
        )
    correlations = np.linalg.svd(first.T @ second, compute_uv=False)
    return float(np.minimum(correlations, 1.0).mean())


def cka(x: Any, y: Any) -> float:
    """Return the linear centred kernel alignment of two representations, without bias.

    Args:
        x: Array of shape `(rows, features)`, or a sequence of such arrays: the batches.
        y: Array of shape `(rows, other_features)`, or a sequence, of the same rows.

    Returns:
        Float, at most about 1. Unrelated representations are near 0, on either side.

    Raises:
        ValueError: if the shapes don't fit, if a batch has fewer than four rows, or if a
            representation is the same in all rows.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(20, 3))
        >>> round(cka(x, 5 * x[:, ::-1]), 6)
        1.0

    References:
        - [Kornblith et al., 2019](https://arxiv.org/abs/1905.00414): the measure.
        - [Nguyen et al., 2021](https://arxiv.org/abs/2010.15327), equation 3: the estimate, added
          up over batches.
    """
    pairs = [_pair("cka", one, two) for one, two in zip(*_batches(x, y), strict=True)]
    fewest = min(len(one) for one, _ in pairs)
    if fewest < _FEWEST_ROWS:
        raise NotMeasurableError(
            f"cka(x, y) must get at least {_FEWEST_ROWS} rows in each batch. Received: {fewest}. "
            "Give more samples, or larger batches."
        )
    both = own = other = 0.0
    for one, two in pairs:
        first, second = _gram(one), _gram(two)
        both += _hsic(first, second)
        own += _hsic(first, first)
        other += _hsic(second, second)
    if own <= 0 or other <= 0:
        raise NotMeasurableError(
            "Representations must differ from row to row to be compared. Received: features that "
            "are (nearly) constant, or fewer rows than tell."
        )
    return float(both / np.sqrt(own * other))


def _pair(owner: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return two representations, each feature with a mean of 0."""
    found = []
    for name, value in (("x", x), ("y", y)):
        array = np.asarray(value, "float64")
        if array.ndim != 2:
            shape = f"an array of shape {array.shape}"
            raise ArgumentError(owner, name, "have shape (rows, features)", received=shape)
        if not np.isfinite(array).all():
            raise NotMeasurableError(
                f"Representations must be finite. Received: NaN or inf ({name})."
            )
        if not len(array) or not np.ptp(array, axis=0).any():
            raise NotMeasurableError(
                "Representations must differ from row to row to be compared. Received: constant "
                f"features ({name})."
            )
        found.append(array - array.mean(axis=0))
    if len(found[0]) != len(found[1]):
        rows = f"{len(found[0])} and {len(found[1])} rows"
        raise ArgumentError(owner, "y", "have the rows of x", received=rows)
    return found[0], found[1]


def _batches(x: Any, y: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    if isinstance(x, (list, tuple)) and isinstance(y, (list, tuple)) and np.ndim(x[0]) == 2:
        if len(x) != len(y):
            counts = f"{len(x)} and {len(y)} batches"
            raise ArgumentError("cka", "y", "have the batches of x", received=counts)
        return x, y
    return [x], [y]


def _directions(x: np.ndarray, variance: float) -> np.ndarray:
    """Return the left singular vectors that explain a part of the variance, as columns."""
    is_tall = len(x) > x.shape[1]
    squares, vectors = np.linalg.eigh(x.T @ x if is_tall else x @ x.T)
    squares, vectors = squares[::-1].clip(min=0.0), vectors[:, ::-1]
    explained = np.cumsum(squares) / squares.sum()
    kept = 1 + int(np.searchsorted(explained, variance - 1e-12))
    vectors, squares = vectors[:, :kept], squares[:kept]
    return x @ vectors / np.sqrt(squares) if is_tall else vectors


def _gram(x: np.ndarray) -> np.ndarray:
    gram = x @ x.T
    np.fill_diagonal(gram, 0.0)
    return gram


def _hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741 (the names of the paper)
    """Return the unbiased estimate of the Hilbert-Schmidt independence criterion (HSIC_1)."""
    n = len(k)
    traces = (k * l).sum()  # both are symmetric
    sums = k.sum() * l.sum() / ((n - 1) * (n - 2))
    products = 2.0 / (n - 2) * (k.sum(axis=0) @ l.sum(axis=0))
    return float((traces + sums - products) / (n * (n - 3)))
