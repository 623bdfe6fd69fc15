"""Pictures of gradients and of how far groups moved: a line for each, in their order."""

import keras
import numpy as np
import pytest

import keras_freeze as kf
from keras_freeze import plots

NAN = float("nan")
MOVED = {
    "loss": [2.0, 1.0, 0.5],
    "trainable_params": [4, 4, 19],
    "weight_change/low": [0.0, 0.0, 0.002],
    "weight_change/mid": [0.0, 0.01, 0.02],
    "weight_change/head": [0.3, 0.6, 0.9],
}
GRADIENTS = {
    "gradient_norm/low": [NAN, 0.1, 0.2],
    "gradient_norm/head": [2.0, 1.5, 1.0],
    "update_ratio/low": [NAN, 1e-4, 2e-4],
    "update_ratio/head": [0.1, 0.05, 0.02],
}


def curves(axes):
    own = [line for line in axes.lines if line.get_gid() != "transition"]
    return {line.get_label(): list(line.get_ydata()) for line in own}


def marks(axes):
    return [line.get_xdata()[0] for line in axes.lines if line.get_gid() == "transition"]


def legend(axes):
    (found,) = axes.figure.legends or [axes.get_legend()]
    return [text.get_text() for text in found.get_texts()]


def test_how_far_each_group_has_moved():
    (axes,) = plots.weight_change(MOVED).axes
    assert curves(axes) == {
        "low": [0.0, 0.0, 0.002], "mid": [0.0, 0.01, 0.02], "head": [0.3, 0.6, 0.9],
    }  # fmt: skip
    assert list(axes.lines[0].get_xdata()) == [1, 2, 3]
    assert legend(axes) == ["head", "mid", "low"]
    assert marks(axes) == [2]


def test_what_has_not_moved_is_on_the_axis_though_it_is_logarithmic():
    (axes,) = plots.weight_change(MOVED).axes
    assert axes.get_yscale() == "symlog"
    zero, small, large = (axes.transData.transform((1, y))[1] for y in (0.0, 0.002, 0.9))
    bottom, top = axes.bbox.y0, axes.bbox.y1
    assert zero == pytest.approx(bottom)
    assert bottom + 0.05 * (top - bottom) < small < large < top
    alike = {"weight_change/low": [0.0, 0.1], "weight_change/head": [0.2, 0.3]}
    assert plots.weight_change(alike).axes[0].get_yscale() == "linear"


def test_gradients_above_and_updates_below():
    upper, lower = plots.gradients(GRADIENTS).axes
    assert curves(upper)["head"] == [2.0, 1.5, 1.0]
    assert np.isnan(curves(lower)["low"][0])
    assert curves(lower)["low"][1:] == [1e-4, 2e-4]
    assert (upper.get_yscale(), lower.get_yscale()) == ("linear", "log")
    assert legend(upper) == ["head", "low"]
    assert [line.get_color() for line in upper.lines] == [line.get_color() for line in lower.lines]


def test_one_of_the_two_alone():
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2)
    assert plots.gradients(GRADIENTS, ax=left) is figure
    plots.gradients(GRADIENTS, ax=right, quantity="update_ratio")
    assert curves(left)["head"] == [2.0, 1.5, 1.0]
    assert legend(left) == ["head", "low"]
    assert curves(right)["head"] == [0.1, 0.05, 0.02]
    (axes,) = plots.gradients(GRADIENTS, quantity="update_ratio").axes
    assert curves(axes)["head"] == [0.1, 0.05, 0.02]


def luminance(colour):
    return float(np.dot(colour[:3], (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_thirty_groups_go_from_dark_to_light(style):
    import matplotlib.pyplot as plt

    log = {f"weight_change/stage{n}": [0.1 * n, 0.2 * n] for n in range(30)}
    with plt.style.context(style):
        figure = plots.weight_change(log)
    (axes,) = figure.axes
    found = [luminance(line.get_color()) for line in axes.lines]
    assert found == sorted(found)
    assert len(set(found)) == 30
    behind = luminance(axes.get_facecolor())
    assert min(abs(value - behind) for value in found) > 0.1
    assert legend(axes)[0] == "stage29"
    assert figure.get_figwidth() <= 9


def test_of_a_callback_after_its_fit():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(1, name="top")]
    )
    model.compile("sgd", "mse")
    callback = kf.GradualUnfreeze(1, backbone="low", verbose=0, log_details=["weight_change"])
    with pytest.raises(ValueError, match=r"plots.weight_change\(source=\.\.\.\) must have trained"):
        plots.weight_change(callback)
    x, y = np.ones((8, 4)), np.ones((8, 1))
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[callback]).history
    (axes,) = plots.weight_change(callback).axes
    assert curves(axes)["low"] == history["weight_change/low"]
    with pytest.raises(ValueError, match=r"hold gradient_norm/<group>.*log_details=\[.gradients"):
        plots.gradients(callback)


def test_what_can_not_be_drawn():
    with pytest.raises(ValueError, match=r"hold weight_change/<group>.*a history of loss"):
        plots.weight_change({"loss": [1.0]})
    with pytest.raises(TypeError, match=r"plots.gradients\(source=\.\.\.\) must be a history"):
        plots.gradients([1.0])
    with pytest.raises(ValueError, match=r"quantity=\.\.\.\) must be .gradient_norm.*'loss'"):
        plots.gradients(GRADIENTS, quantity="loss")
