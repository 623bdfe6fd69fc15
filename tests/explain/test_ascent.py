"""Gradient ascent on images, with gradients that are written by hand."""

import numpy as np
import pytest

from keras_freeze.explain import ascent

SETTINGS = {"blur": 0.0, "jitter": 0, "decay": 0.0}


def climb(gradient_of, steps=1, images=None, **settings):
    images = np.zeros((2, 6, 6, 1)) if images is None else images
    generator = np.random.default_rng(1)
    return ascent.climb(
        images, gradient_of, steps=steps, generator=generator, **{**SETTINGS, **settings}
    )


def test_steps_have_the_same_length_whatever_the_gradients_and_end_at_the_range():
    slope = np.random.default_rng(0).choice([-2.0, -1.0, 1.0, 3.0], (2, 6, 6, 1)) * [
        [[[1e-6]]],
        [[[1e6]]],
    ]
    one = climb(lambda images: slope)
    np.testing.assert_allclose(np.sqrt((one**2).mean(axis=(1, 2, 3))), [0.05, 0.05])
    many = climb(lambda images: slope, steps=1000)
    np.testing.assert_array_equal(np.abs(many), 1.0)
    np.testing.assert_array_equal(np.sign(many), np.sign(slope))


def test_decay_takes_a_part_of_the_values():
    ones = np.ones((2, 6, 6, 1))
    np.testing.assert_allclose(climb(lambda images: -ones, images=ones, decay=0.1), 0.9 * 0.95)


def test_an_image_without_a_gradient_starts_again():
    def gradient_of(images):
        calls.append(images)
        return np.zeros_like(images) if len(calls) == 1 else np.ones_like(images)

    calls = []
    found = climb(gradient_of, steps=2)
    np.testing.assert_array_equal(calls[0], 0.0)
    assert np.unique(calls[1]).size > 50
    np.testing.assert_allclose(found, calls[1] + 0.05)


def test_jitter_moves_what_the_gradient_is_of_and_moves_it_back():
    at = []

    def gradient_of(images):
        at.append(tuple(np.argwhere(images[0, :, :, 0] == 1)[0]))
        return np.where(images == 1, 1.0, 0.0)

    images = np.zeros((1, 6, 6, 1))
    images[0, 2, 3] = 1.0
    found = climb(gradient_of, steps=20, images=images, jitter=2)
    assert {row for row, _ in at} <= set(range(5))
    assert len(set(at)) > 5
    assert found[0, 2, 3, 0] == 1.0
    assert np.count_nonzero(found) == 1


def test_a_blur_keeps_the_sum_and_is_as_wide_as_said():
    images = np.zeros((1, 21, 21, 1))
    images[0, 10, 10] = 1.0
    found = ascent.blurred(images, 1.5)[0, :, :, 0]
    assert found.sum() == pytest.approx(1.0)
    places = np.arange(21) - 10
    for axis in (0, 1):
        assert np.sqrt((found.sum(axis=axis) * places**2).sum()) == pytest.approx(1.5, rel=0.02)
    np.testing.assert_allclose(ascent.blurred(np.ones((1, 5, 5, 2)), 2.0), 1.0)


@pytest.mark.parametrize(("steps", "is_blurred"), [(3, False), (4, True)])
def test_blurred_after_every_fourth_step(steps, is_blurred):
    images = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 6, 6, 1))
    constant = climb(lambda images: np.ones_like(images), steps, images, blur=2.0)
    assert (constant.std() < 0.5 * images.std()) is np.bool_(is_blurred)
