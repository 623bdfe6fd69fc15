"""Pictures of activations and of filters' images: which panels there are, and what they show."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from keras_freeze import plots
from keras_freeze.explain import FilterImages


def found(count=5, channels=3):
    images = np.random.default_rng(0).uniform(0.45, 0.55, (count, 8, 8, channels))
    numbers, ones = tuple(range(10, 10 + count)), np.ones(count)
    return FilterImages(images, numbers, 0.1 * ones, 2 * ones, "conv", "net", (0.0, 1.0))


@pytest.mark.parametrize(("columns", "shape"), [(None, (2, 3)), (5, (1, 5)), (2, (3, 2))])
def test_filters_in_a_grid(columns, shape):
    figure = plots.filters(found(), columns=columns)
    assert [axes.get_title() for axes in figure.axes] == [f"{n}: 0.1 → 2" for n in range(10, 15)]
    grid = figure.axes[0].get_subplotspec().get_gridspec()
    assert (grid.nrows, grid.ncols) == shape


@pytest.mark.parametrize(("channels", "rank"), [(3, 3), (1, 2), (2, 2)])
def test_an_image_of_little_contrast_is_stretched(channels, rank):
    figure = plots.filters(found(channels=channels))
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown.ndim == rank
    assert shown.min() >= 0
    assert shown.max() <= 1
    assert shown.std() > 0.2


def test_maps_have_one_scale():
    outputs = np.random.default_rng(0).normal(size=(2, 6, 6, 20))
    figure = plots.activations(outputs, 1, channels=[3, 7])
    *panels, bar = figure.axes
    assert [panel.get_title() for panel in panels] == ["3", "7"]
    for panel, n in zip(panels, (3, 7), strict=True):
        np.testing.assert_allclose(panel.images[0].get_array(), outputs[1, ..., n], rtol=1e-6)
        chosen = outputs[1][..., [3, 7]]
        assert panel.images[0].get_clim() == pytest.approx((chosen.min(), chosen.max()))
    assert bar.get_ylabel() == "activation"
    assert len(plots.activations(outputs).axes) == 16 + 1


def test_channels_first_and_features_of_steps():
    outputs = np.random.default_rng(0).uniform(size=(2, 3, 5, 6))
    first = plots.activations(outputs, channels=1, data_format="channels_first")
    np.testing.assert_allclose(first.axes[0].images[0].get_array(), outputs[0, 1], rtol=1e-6)
    assert first.axes[0].images[0].get_clim()[0] == 0
    figure, axes = plt.subplots()
    assert plots.activations(outputs[0], 2, ax=axes) is figure
    np.testing.assert_allclose(axes.images[0].get_array(), outputs[0, 2].T, rtol=1e-6)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "feature")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": np.ones((2, 3))}, "outputs=.*have shape"),
        ({"sample": 2}, "sample=.*be within the 2 samples"),
        ({"channels": [3]}, "channels=.*be from 0 to 2"),
        ({"columns": 0}, "columns=.*positive integer"),
        ({"data_format": "NCHW"}, 'data_format=.*be "channels_last"'),
        ({"ax": object()}, "ax=.*be left out where several maps"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=rf"^plots.activations\({message}"):
        plots.activations(**{"outputs": np.ones((2, 4, 4, 3)), **arguments})
