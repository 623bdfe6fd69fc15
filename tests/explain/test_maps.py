"""Grad-CAM's formula, the norm of gradient times activation, and maps of another size."""

import numpy as np
import pytest

from keras_freeze.explain import maps


def test_grad_cam_by_hand():
    outputs = np.array([[[[1.0, 1.0], [0.0, 3.0]]]])
    gradients = np.array([[[[2.0, -1.0], [0.0, 0.0]]]])
    # Weights 1 and -0.5.
    np.testing.assert_allclose(maps.grad_cam(outputs, gradients), [[[0.5, 0.0]]])


@pytest.mark.parametrize("shape", [(8, 6), (2, 3), (4, 3)])
def test_a_ramp_stays_a_ramp_between_the_outermost_centres(shape):
    rows, columns = np.mgrid[0:4, 0:3].astype(float)
    found = maps.resized((10 * rows + columns)[None], shape)[0]
    assert found.shape == shape
    centres = [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(shape, (4, 3), strict=True)]
    expected = 10 * centres[0].clip(0, 3)[:, None] + centres[1].clip(0, 2)
    np.testing.assert_allclose(found, expected)
