"""Pictures of heat maps: what is beside what, which colours, and which words."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest

from keras_freeze import plots
from keras_freeze.explain import HeatMap


def heat_map(*shape, targets=True):
    values = np.random.default_rng(0).uniform(0.1, 5, shape)
    numbers = tuple(range(shape[0])) if targets else None
    scores = 1.5 + np.arange(shape[0])
    return HeatMap(values, scores, numbers, "conv", "Grad-CAM", "net")


def images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def test_before_and_after_are_beside_the_image():
    maps = {"before": heat_map(6, 8, 10), "after": heat_map(6, 8, 10, targets=False)}
    figure = plots.heatmap(images(6, 8, 10, 3), maps)
    *panels, bar = figure.axes
    assert [panel.get_title() for panel in panels[:3]] == ["input", "before", "after"]
    assert len(panels) == 3 * 4
    assert [p.get_xlabel() for p in panels[3:6]] == ["", "unit 1, score 2.5", "score 2.5"]
    assert bar.get_ylabel() == "relevance, of the largest"
    colours = np.asarray(panels[1].images[-1].get_array())
    hottest = np.unravel_index(maps["before"].values[0].argmax(), (8, 10))
    assert np.unravel_index(colours[..., 3].argmax(), (8, 10)) == hottest
    assert colours[..., :3].sum(axis=-1).argmax() == maps["before"].values[0].argmax()


@pytest.mark.parametrize("shape", [(3, 8, 10), (1, 8, 10)])
def test_channels_first_and_into_axes_of_ones_own(shape):
    x = images(2, *shape)
    figure, axes = plt.subplots()
    assert plots.heatmap(x, heat_map(2, 8, 10), samples=1, ax=axes) is figure
    below, above = axes.images
    assert np.asarray(below.get_array()).shape == (8, 10)
    assert np.asarray(above.get_array()).shape == (8, 10, 4)


def test_a_series_has_a_strip_for_each_map():
    maps = {"before": heat_map(3, 7), "after": heat_map(3, 7)}
    figure = plots.heatmap(images(3, 7, 2), maps, samples=[2, 0])
    assert figure.axes[0].get_title(loc="left").startswith("sample 2")
    for first, sample in ((0, 2), (3, 0)):
        panel, *strips = figure.axes[first : first + 3]
        assert len(panel.lines) == 2
        assert [strip.get_yticklabels()[0].get_text() for strip in strips] == ["before", "after"]
        for strip in strips:
            alpha = np.asarray(strip.images[0].get_array())[0, :, 3]
            np.testing.assert_allclose(alpha, maps["after"].scaled()[sample])
            assert strip.get_xlim() == panel.get_xlim()
    own, axes = plt.subplots()
    assert plots.heatmap(images(3, 7, 2), maps, samples=0, ax=axes) is own
    assert len(axes.child_axes) == 2


def test_words_have_the_colours_of_their_tokens_and_padding_is_left_out():
    found = heat_map(2, 6)
    words = [["the", "film", "was", "bad"], ["good"]]
    figure = plots.heatmap(np.ones((2, 6), "int64"), found, tokens=words)
    assert len(figure.axes) == 2
    for sample, axes in enumerate(figure.axes):
        assert [text.get_text() for text in axes.texts] == words[sample]
        alpha = [cell.get_facecolor()[3] for cell in axes.patches]
        np.testing.assert_allclose(alpha, found.scaled()[sample, : len(words[sample])])
        assert axes.get_title(loc="left") == f"unit {sample}, score {1.5 + sample}"


def test_a_long_text_goes_on_in_the_next_line():
    words = [f"word{n:04}" for n in range(60)]
    figure = plots.heatmap(np.ones((1, 60), "int64"), heat_map(1, 60), tokens=words)
    (axes,) = figure.axes
    right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
    assert bottom > 5
    for text, cell in zip(axes.texts, axes.patches, strict=True):
        assert cell.get_x() + len(text.get_text()) <= right
        assert 0 < text.get_position()[1] < bottom
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize("tokens", [None, ["7", "3"]])
def test_without_texts_the_ids_are_written(tokens):
    x = {"token_ids": np.array([[7, 3]]), "padding_mask": np.array([[1, 1]])}
    figure, axes = plt.subplots()
    assert plots.heatmap(x, heat_map(1, 2), tokens=tokens, ax=axes) is figure
    assert [text.get_text() for text in axes.texts] == ["7", "3"]


IDS = np.ones((2, 6), "int64")


@pytest.mark.parametrize(
    ("x", "maps", "arguments", "message"),
    [
        (IDS, "none", {}, "maps=.*be an explain.HeatMap"),
        (IDS, {}, {}, "maps=.*be an explain.HeatMap"),
        (IDS, heat_map(2, 5), {}, "maps=.*be those of x"),
        (images(2, 8, 8, 3), heat_map(2, 8, 7), {}, "maps=.*be those of x"),
        (IDS, heat_map(2, 6), {"samples": 2}, "samples=.*be from 0 to 1"),
        (IDS, heat_map(2, 6), {"tokens": ["one"]}, "tokens=.*a sequence of at most 6 strings"),
        (IDS, heat_map(2, 6), {"tokens": "one two"}, "tokens=.*be strings, or a sequence"),
        (IDS, heat_map(2, 6), {"ax": object()}, "ax=.*left out.*2 sample"),
        (images(2, 6, 3), heat_map(2, 6), {"tokens": ["a"]}, "tokens=.*unless x are tokens"),
    ],
)
def test_wrong_arguments(x, maps, arguments, message):
    with pytest.raises((TypeError, ValueError), match=rf"^plots.heatmap\({message}"):
        plots.heatmap(x, maps, **arguments)
