import importlib
import sys

import keras
import pytest

from keras_freeze import plots

LOG = {
    "accuracy": [0.2, 0.3, 0.5, 0.6],
    "val_accuracy": [0.2, 0.3, 0.4, 0.4],
    "loss": [2.0, 1.5, 1.0, 0.9],
    "trainable_params": [4, 4, 19, 23],
    "non_trainable_params": [19, 19, 4, 0],
}


def marks(axes):
    return [line.get_xdata()[0] for line in axes.lines if line.get_gid() == "transition"]


def curves(axes):
    return [line for line in axes.lines if line.get_gid() != "transition"]


def test_transitions_are_where_the_count_changes():
    assert plots.transitions(LOG) == [2, 3]


def test_training_draws_the_metric_and_marks_transitions_in_both_panels():
    upper, lower = plots.training(LOG).axes

    assert marks(upper) == marks(lower) == [2, 3]
    training, validation = curves(upper)
    assert list(training.get_xdata()) == [1, 2, 3, 4]  # an epoch's value stands at its end
    assert list(training.get_ydata()) == LOG["accuracy"]
    assert list(validation.get_ydata()) == LOG["val_accuracy"]


def test_training_stacks_frozen_on_trainable_parameters():
    trainable, frozen = (stairs.get_data() for stairs in plots.training(LOG).axes[1].patches)

    assert list(trainable.values) == [4, 4, 19, 23]
    assert list(frozen.baseline) == [4, 4, 19, 23]
    assert set(frozen.values) == {23}


def test_training_falls_back_on_the_loss_and_needs_no_validation():
    log = {name: LOG[name] for name in ("loss", "trainable_params", "non_trainable_params")}
    upper = plots.training(log).axes[0]

    assert upper.get_ylabel() == "loss"
    assert len(curves(upper)) == 1


def test_comparison_draws_one_column_per_setting_and_one_line_per_arm():
    better = {**LOG, "val_accuracy": [0.4, 0.5, 0.6, 0.8]}
    steady = {**LOG, "trainable_params": [23] * 4}
    figure = plots.comparison(
        {
            "low rate": {"gradual": [LOG, better], "all at once": steady},
            "high rate": {"gradual": LOG},
        }
    )

    low, high, *_ = figure.axes
    assert (low.get_title(), high.get_title()) == ("low rate", "high rate")
    gradual, at_once = curves(low)
    assert gradual.get_ydata() == pytest.approx([0.3, 0.4, 0.5, 0.6])  # the mean
    assert list(at_once.get_ydata()) == LOG["val_accuracy"]
    assert len(low.collections) == 1  # a band only where there are several histories
    assert marks(low) == marks(high) == [2, 3]
    assert [text.get_text() for text in figure.legends[0].texts] == ["gradual", "all at once"]


def test_a_single_column_needs_no_title():
    history = keras.callbacks.History()
    history.history = LOG
    for flat in ({"a": history, "b": LOG}, {"a": [LOG, LOG], "b": LOG}, {"val_accuracy": [LOG]}):
        upper, _ = plots.comparison(flat).axes
        assert upper.get_title() == ""
        assert [line.get_label() for line in curves(upper)] == [*flat]
    upper, _ = plots.comparison({"one": {"val_accuracy": [LOG]}}).axes  # a label, not a history
    assert upper.get_title() == "one"


def test_a_line_has_the_same_colour_in_every_column_and_the_legend_has_all():
    figure = plots.comparison(
        {"one": {"a": LOG, "b": LOG}, "other": {"b": LOG, "c": LOG}}, metric="loss"
    )

    one, other, *_ = figure.axes
    assert curves(one)[1].get_color() == curves(other)[0].get_color()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == ["a", "b", "c"]
    colours = [handle.get_color() for handle in legend.legend_handles]
    assert colours == [line.get_color() for line in (*curves(one), curves(other)[1])]


@pytest.mark.parametrize("missing", ["trainable_params", "val_accuracy"])
def test_a_history_without_what_is_drawn_raises(missing):
    log = {name: values for name, values in LOG.items() if name != missing}
    for columns in ({"a": {"b": log}}, {"b": log}):
        with pytest.raises(ValueError, match=f"must hold '{missing}'.*Received: a history of"):
            plots.comparison(columns)


def test_a_picture_is_pyplots_current_figure(tmp_path):
    import matplotlib.pyplot as plt

    figure = plots.training(LOG)
    assert plt.gcf() is figure
    plt.savefig(tmp_path / "training.png")
    assert (tmp_path / "training.png").stat().st_size > 1000
    with pytest.raises(NotImplementedError):  # which leaves it to IPython
        figure._ipython_display_()
    assert plt.get_fignums() == []  # so that pyplot does not show it again


def test_a_metric_can_be_drawn_into_axes_of_ones_own():
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2)
    assert plots.training(LOG, ax=right) is figure
    assert [line.get_label() for line in curves(right)] == ["training", "validation"]
    assert not left.has_data()
    assert len(plt.get_fignums()) == 1


def test_importing_plots_needs_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    importlib.reload(plots)
    with pytest.raises(ModuleNotFoundError, match="matplotlib"):
        plots.training(LOG)


def test_several_columns_are_as_wide_as_a_notebook():
    columns = {f"rate {n}": {"gradual": LOG} for n in range(4)}
    assert plots.comparison(columns, metric="loss").get_figwidth() <= 9
