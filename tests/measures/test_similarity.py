"""SVCCA and CKA, compared with independent computations, and their invariances."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, strategies as st

from keras_freeze.measures import cka, svcca

RNG = np.random.default_rng(0)


def features(rows=60, columns=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, columns)) * np.linspace(1, 3, columns) + rng.normal(size=columns)


def related(x, noise, columns=5, seed=1):
    rng = np.random.default_rng(seed)
    mixed = np.tanh(x) @ rng.normal(size=(x.shape[1], columns))
    return mixed + noise * rng.normal(size=(len(x), columns))


def rotation(size, seed=2):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def svcca_by_svd(x, y, variance=0.99):
    """SVCCA by its paper: singular vectors, then CCA through the whitened covariance."""
    kept = []
    for array in (x, y):
        u, s, _ = np.linalg.svd(array - array.mean(0), full_matrices=False)
        count = next(n for n in range(1, len(s) + 1) if (s[:n] ** 2).sum() >= variance * s @ s)
        kept.append(u[:, :count] * s[:count])
    (one, two), n = kept, len(x)
    whiten = [scipy.linalg.inv(scipy.linalg.sqrtm(a.T @ a / n)) for a in (one, two)]
    return np.linalg.svd(whiten[0] @ (one.T @ two / n) @ whiten[1], compute_uv=False).mean()


def cka_by_formula(*pairs):
    """Unbiased linear CKA by its equation, with explicit vectors of ones."""

    def hsic(a, b):
        n, one = len(a), np.ones(len(a))
        k, m = a @ a.T, b @ b.T
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        first = np.trace(k @ m)
        second = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (first + second - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    both = sum(hsic(a, b) for a, b in pairs)
    return both / np.sqrt(sum(hsic(a, a) for a, _ in pairs) * sum(hsic(b, b) for _, b in pairs))


@pytest.mark.parametrize("noise", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("columns", [2, 5])
def test_as_independent_computations_say(noise, columns):
    x = features()
    y = related(x, noise, columns)
    assert svcca(x, y) == pytest.approx(svcca_by_svd(x, y), abs=1e-9)
    assert cka(x, y) == pytest.approx(cka_by_formula((x, y)), abs=1e-9)


def test_svcca_of_more_features_than_rows():
    low = features(80, 3)
    x, y = low @ RNG.normal(size=(3, 100)), related(low, 0.01, 2) @ RNG.normal(size=(2, 120))
    assert svcca(x, y) == pytest.approx(svcca_by_svd(x, y), abs=1e-9)


def test_cka_is_added_up_over_batches():
    x = features(40)
    y = related(x, 1.0)
    batches = [slice(0, 10), slice(10, 40)]
    expected = cka_by_formula(*[(x[b], y[b]) for b in batches])
    assert cka([x[b] for b in batches], [y[b] for b in batches]) == pytest.approx(expected)


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100), seed=st.integers(0, 50))
def test_rotation_scale_and_shift_change_nothing(scale, shift, seed):
    x, turned = features(seed=seed), rotation(4, seed)
    y = related(x, 1.0)
    for measure in (svcca, cka):
        assert measure(scale * x @ turned + shift, y) == pytest.approx(measure(x, y), abs=1e-6)
        assert measure(x, scale * x @ turned) == pytest.approx(1.0, abs=1e-6)
        assert measure(x, y) == pytest.approx(measure(y, x), abs=1e-9)


def test_noise_does_not_look_alike():
    x, y = (np.random.default_rng(n).normal(size=(1024, 64)) for n in (0, 1))
    assert svcca(x, y) < 0.45
    assert abs(cka(x, y)) < 0.02


REFUSED = {
    "too few rows": (lambda: svcca(features(32, 4), features(32, 4)), "32 rows, and 4 directions"),
    "three rows": (lambda: cka(features(3), features(3)), "at least 4 rows"),
    "constant (cka)": (lambda: cka(np.ones((9, 3)), features(9)), r"constant features \(x\)"),
    "constant (svcca)": (lambda: svcca(features(), np.ones((60, 3))), r"constant features \(y\)"),
    "not finite": (lambda: cka(features(9), np.full((9, 2), np.nan)), "finite"),
    "other rows": (lambda: cka(features(9), features(8)), "9 and 8 rows"),
    "other batches": (lambda: cka([features(9)] * 2, [features(9)]), "2 and 1 batches"),
    "one dimension": (lambda: svcca(np.ones(9), features(9)), "rows, features"),
    "variance": (lambda: svcca(features(), features(), variance=0), "above 0"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_says_nothing_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
