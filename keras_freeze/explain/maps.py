"""From a layer's output and the gradient of a score to one number for each position. Pure."""

from __future__ import annotations

import numpy as np


def grad_cam(outputs: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Return the class activation maps of images, of shape `(samples, height, width)`.

    Channels are added up, each with the mean of its gradient over all positions as its weight;
    what is negative becomes 0.

    Args:
        outputs: Array of shape `(samples, height, width, channels)`.
        gradients: Array of the same shape.

    Reference:
        - [Selvaraju et al., 2017](https://arxiv.org/abs/1610.02391), equations 1 and 2.
    """
    weights = gradients.mean(axis=(1, 2))
    return np.maximum(np.einsum("nhwk,nk->nhw", outputs, weights), 0.0)


def saliency(outputs: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Return the norm over features of gradient times output, of shape `(samples, positions)`.

    Args:
        outputs: Array of shape `(samples, positions, features)`.
        gradients: Array of the same shape.

    Example:
        >>> saliency(np.array([[[3.0, 4.0], [1.0, 1.0]]]), np.array([[[1.0, 1.0], [0.0, 0.0]]]))
        array([[5., 0.]])
    """
    return np.asarray(np.linalg.norm(outputs * gradients, axis=-1))


def resized(maps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolate maps linearly to a number of positions along each axis after the first.

    Example:
        >>> resized(np.array([[0.0, 1.0]]), (4,))
        array([[0.  , 0.25, 0.75, 1.  ]])
    """
    for axis, size in enumerate(shape, 1):
        before = maps.shape[axis]
        if size != before:
            # Centres of the new positions, in the old ones.
            centres = (np.arange(size) + 0.5) * before / size - 0.5
            weights = np.stack([np.interp(centres, range(before), row) for row in np.eye(before)])
            maps = np.moveaxis(np.tensordot(maps, weights, (axis, 0)), -1, axis)
    return maps
