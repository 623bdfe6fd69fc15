"""The picture of decisions: what was measured for each depth, and against what it was decided."""

import pytest

import keras_freeze as kf
from keras_freeze import plots
from keras_freeze.schedules import DecisionRow, Decisions, Measured

MEASURED = tuple(
    Measured(epochs, f"depth {depth}", value)
    for epochs, (depth, value) in enumerate([(2, 2.2), (1, 1.9), (0, 2.1), (1, 1.8)], 1)
)
ROWS = (
    DecisionRow(3, "depth 2 is dropped", 2.2, 1.9, "val_loss"),
    DecisionRow(3, "depth 0 is dropped", 2.1, 1.9, "val_loss"),
    DecisionRow(4, "depth 1 goes on", 1.8, None, "val_loss"),
)
MADE = Decisions("val_loss", ROWS, MEASURED, "depth 1 of 2: head and high train; and more")


def lines(axes):
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines
    }


def test_a_line_for_each_depth_at_its_epochs():
    (axes,) = plots.decisions(MADE).axes
    found = lines(axes)
    assert found["depth 2"] == ([1], [2.2])
    assert found["depth 1"] == ([2, 4], [1.9, 1.8])
    assert found["depth 0"] == ([3], [2.1])
    assert found["threshold"][1] == [1.9, 1.9]
    assert axes.get_title(loc="left") == "depth 1 of 2: head and high train"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["depth 2", "depth 1", "depth 0", "threshold"]


def test_thirty_depths_can_be_told_apart():
    measured = tuple(Measured(n, f"depth {n}", 2.0 + n) for n in range(30))
    (axes,) = plots.decisions(Decisions("val_loss", (), measured, "depth 0 of 29")).axes
    styles = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}
    assert len(styles) == 30


def test_into_axes_of_ones_own():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    assert plots.decisions(MADE, ax=axes) is figure


def test_what_has_decided_nothing():
    with pytest.raises(ValueError, match=r"decisions\(made=\.\.\.\) must have decided something"):
        plots.decisions(kf.GradualUnfreeze())


def of_two_metrics():
    measured = tuple(Measured(n, "low", 0.5 / n) for n in (1, 2, 3))
    rows = (
        DecisionRow(2, "low freezes", 0.25, 0.3, "change of the weights"),
        DecisionRow(3, "low unfreezes", 1.4, 1.2, "val_loss"),
        DecisionRow(4, "low unfreezes", 1.6, 1.2, "val_loss"),
    )
    return Decisions("change of the weights", rows, measured, "depth 0 of 1: all train")


def test_each_metric_has_a_scale_and_an_entry_for_its_threshold():
    axes, beside = plots.decisions(of_two_metrics()).axes
    assert beside.get_ylabel() == "val_loss"
    assert lines(axes)["threshold (change of the weights)"][1] == [0.3, 0.3]
    assert lines(beside)["threshold (val_loss)"] == ([2.7, 3.3], [1.2, 1.2])
    assert lines(beside)["val_loss"] == ([3, 4], [1.4, 1.6])
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    names = ["threshold (change of the weights)", "threshold (val_loss)", "val_loss"]
    assert labels == ["low", *names]


def test_the_threshold_of_another_metric_alone_has_an_entry():
    made = of_two_metrics()
    only = Decisions(made.criterion, made.rows[1:], made.measured, made.verdict)
    axes, _ = plots.decisions(only).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["low", "threshold (val_loss)", "val_loss"]


def test_lines_are_seen_on_a_dark_background():
    import matplotlib.pyplot as plt

    measured = tuple(Measured(n, f"depth {n}", 2.0) for n in range(7))
    with plt.style.context("dark_background"):
        (axes,) = plots.decisions(Decisions("val_loss", (), measured, "depth 0 of 6")).axes
    colours = [line.get_color() for line in axes.lines]
    assert len(set(colours)) == 7
    assert not {"black", "#000000"} & set(colours)
