"""What counts as the same result of the same computation."""

import numpy as np
import pytest

from keras_freeze.prefix_cache.agreement import is_close

ONE = np.linspace(-1, 1, 5, dtype="float32")


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        (ONE, ONE, True),
        (ONE * np.float32(1 + 1e-6), ONE, True),
        (ONE * np.float32(1.01), ONE, False),
        (ONE[:4], ONE, False),
        (np.arange(3), np.arange(3), True),
        (np.arange(3), np.arange(3) + 1, False),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0 + 1e-15]), True),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.1]), False),
        (np.array([np.inf, 1.0]), np.array([np.inf, 2.0]), False),
        (np.array([np.inf]), np.array([-np.inf]), False),
        (np.zeros(0), np.zeros(0), True),
    ],
)
def test_up_to_the_order_of_sums(new, old, expected):
    assert is_close(new, old) is expected
