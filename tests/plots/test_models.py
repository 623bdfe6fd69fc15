"""The picture of a model: a bar for each group, with its count, and what it does."""

import keras
import pytest

import keras_freeze as kf
from keras_freeze import plots


def stack(*widths, batch_norm=None):
    x = inputs = keras.Input((10,))
    for n, width in enumerate(widths):
        x = keras.layers.Dense(width, name=f"layer_{n}", use_bias=False)(x)
        if n == batch_norm:
            x = keras.layers.BatchNormalization(name=f"layer_{n}_bn")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="head", use_bias=False)(x))


GROUPS = {"low": "layer_0", "middle": "layer_1", "high": "layer_2", "top": "head"}


def drawn(axes):
    """Return width and label of each bar, from input to head, a repeated label as it is shown."""
    bars = [bars for bars in axes.containers if len(bars)]
    return [(bars[0].get_width(), bars.get_label().removeprefix("_")) for bars in bars]


def test_groups_from_input_to_head_with_their_states():
    model = stack(4, 5, 6, batch_norm=1)
    model.get_layer("layer_2").enable_lora(1)
    model.get_layer("layer_0").trainable = False
    model.get_layer("layer_1_bn").trainable = False
    (axes,) = plots.model(model, groups=GROUPS).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["low", "middle", "high", "top"]
    lora = 5 * 6 + 5 + 6
    assert drawn(axes) == [
        (40, "frozen"),
        (4 * 5 + 4 * 5, "partly frozen"),
        (lora, "LoRA"),
        (12, "new"),
    ]
    assert [text.get_text() for text in axes.texts] == [
        "40", "40, of which 20 train", f"{lora}, of which 11 train", "12",
    ]  # fmt: skip
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["frozen", "partly frozen", "LoRA", "new"]
    assert axes.get_xscale() == "linear"


def test_each_state_has_a_colour_and_a_hatch_of_its_own():
    model = stack(4, 5, 6)
    kf.freeze(model, layers=["layer_0"])
    (axes,) = plots.model(model, groups=GROUPS).axes
    bars = [container[0] for container in axes.containers]
    looks = [(bar.get_facecolor(), bar.get_hatch()) for bar in bars]
    assert looks[1] == looks[2]
    assert len({colour for colour, _ in looks}) == len({hatch for _, hatch in looks}) == 3
    assert [label for _, label in drawn(axes)] == ["frozen", "trainable", "trainable", "new"]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["frozen", "trainable", "new"]


def test_what_is_new_and_frozen_keeps_its_colour():
    model = stack(4, 5, 6)
    (before,) = plots.model(model, groups=GROUPS).axes
    kf.freeze(model, layers=["head"])
    (axes,) = plots.model(model, groups=GROUPS).axes
    assert drawn(axes)[-1] == (12, "new, frozen")
    bar, other = axes.containers[-1][0], before.containers[-1][0]
    assert bar.get_facecolor() == other.get_facecolor()
    assert bar.get_hatch() != other.get_hatch()


def test_what_is_only_assumed_to_be_new_is_said():
    (axes,) = plots.model(stack(4, 5)).axes
    assert drawn(axes)[-1][1] == "new (assumed)"


def test_a_group_a_thousand_times_another_is_on_an_axis_that_shows_both():
    groups = {"low": "layer_0", "high": "layer_1", "top": "head"}
    (axes,) = plots.model(stack(4000, 25), groups=groups).axes
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    assert low < 50 < 100_000 < high
    widths = [axes.transData.transform((bars[0].get_width(), 0))[0] for bars in axes.containers]
    left = axes.transData.transform((low, 0))[0]
    assert min(widths) - left > 0.03 * (max(widths) - left)


def test_thirty_groups_with_long_names_can_be_told_apart():
    model = stack(*[3] * 29)
    names = {f"efficientnetv2_block_{n}_squeeze_and_excite": f"layer_{n}$" for n in range(29)}
    figure = plots.model(model, groups={**names, "top": "head"})
    (axes,) = figure.axes
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert len(set(shown)) == 30
    assert max(map(len, shown)) <= 28
    assert figure.get_figwidth() <= 9


def test_into_axes_of_ones_own_and_without_changes():
    import matplotlib.pyplot as plt

    model = stack(4, 5)
    flags = [variable.trainable for variable in model.weights]
    figure, axes = plt.subplots()
    assert plots.model(model, ax=axes, backbone=["layer_0", "layer_1"]) is figure
    assert drawn(axes)[-1][1] == "new"
    assert [variable.trainable for variable in model.weights] == flags


def test_what_is_no_model():
    with pytest.raises(TypeError, match=r"plots.model\(model=\.\.\.\) must be a keras.Model"):
        plots.model("vgg16")
    with pytest.raises(ValueError, match=r"plots.model\(model=\.\.\.\) must be built"):
        plots.model(keras.Sequential([keras.layers.Dense(3)]))
