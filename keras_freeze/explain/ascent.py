"""Gradient ascent on images with what keeps them smooth. Pure: the gradient is a function."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

# Length of a step: the root mean square of what it adds, where values go from -1 to 1.
_RATE = 0.05
# Standard deviation of the noise that images start from.
_NOISE = 0.1
# So many steps from one blur to the next.
_BLUR_EVERY = 4


def noise(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Return images to start from, values around 0."""
    return generator.normal(scale=_NOISE, size=shape).clip(-1.0, 1.0)


def climb(
    images: np.ndarray,
    gradient_of: Callable[[np.ndarray], np.ndarray],
    *,
    steps: int,
    blur: float,
    jitter: int,
    decay: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return images after some steps of gradient ascent, each in the direction of its gradient.

    An image whose gradient is 0, of a filter that nothing has activated, starts again from other
    noise.

    Args:
        images: Array of shape `(samples, height, width, channels)`, from -1 to 1.
        gradient_of: Takes images and returns the gradient of each.
        steps: Int.
        blur: Float, standard deviation in pixels of a Gaussian blur after every fourth step.
        jitter: Int, the most pixels that images are moved by while a gradient is computed, along
            each axis and around the edge.
        decay: Float, the part of the values that is taken away after each step.
        generator: What noise and jitter are drawn from.
    """
    for step in range(steps):
        moved = tuple(int(n) for n in generator.integers(-jitter, jitter + 1, 2))
        back = (-moved[0], -moved[1])
        gradient = gradient_of(np.roll(images, moved, (1, 2)))
        gradient = np.roll(gradient, back, (1, 2))
        norm = np.sqrt(np.square(gradient).mean(axis=(1, 2, 3), keepdims=True))
        stepped = images + _RATE * gradient / np.where(norm > 0, norm, 1.0)
        is_dead = ~(norm > 0)
        if is_dead.any():
            stepped = np.where(is_dead, noise(images.shape, generator), stepped)
        images = stepped * (1.0 - decay)
        if (step + 1) % _BLUR_EVERY == 0:
            images = blurred(images, blur)
        images = images.clip(-1.0, 1.0)
    return images


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """Return images after a Gaussian blur; beyond their edges they go on as they end.

    Args:
        images: Array of shape `(samples, height, width, channels)`.
        sigma: Float, the standard deviation in pixels; 0 for no blur.
    """
    if sigma == 0:
        return images
    radius = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * np.square(np.arange(-radius, radius + 1) / sigma))
    weights /= weights.sum()
    for axis in (1, 2):
        padding = [(radius, radius) if n == axis else (0, 0) for n in range(images.ndim)]
        padded, size = np.pad(images, padding, mode="edge"), images.shape[axis]
        images = np.zeros_like(images)
        for n, weight in enumerate(weights):
            images = images + weight * padded.take(range(n, n + size), axis)
    return images
