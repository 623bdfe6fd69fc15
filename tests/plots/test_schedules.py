"""The picture of a schedule: rates by group and epoch, what is frozen, and what ends phases."""

import keras
import numpy as np
import pytest
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze import plots
from keras_freeze.schedules import (
    AfterSteps,
    Cosine,
    FreezeSchedule,
    OnPlateau,
    Phase,
    RecordRow,
    ScheduleRecord,
    TopGradient,
)

GROUPS = ("low", "mid", "top")


def build(count=3):
    names = GROUPS if count == 3 else [f"stage{n}" for n in range(count)]
    layers = [keras.Input((4,)), *(keras.layers.Dense(3, name=name) for name in names)]
    model = as_if_trained(keras.Sequential(layers, name="net"))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def gradual(schedule="even", **arguments):
    return kf.GradualUnfreeze(schedule, backbone=["low", "mid"], verbose=0, **arguments)


def rates(axes):
    """Return the rates that colours show, from input to head; NaN where there is none."""
    (mesh,) = axes.collections
    return np.ma.filled(mesh.get_array().astype("float64"), np.nan)


def frozen(axes):
    """Return from when to when each group is drawn as frozen."""
    found = {}
    for bars in axes.containers:
        if bars[0].get_gid() not in (None, "unknown"):
            left = bars[0].get_x()
            found.setdefault(bars[0].get_gid(), []).append((left, left + bars[0].get_width()))
    return found


def unknown(axes):
    bars = [bars[0] for bars in axes.containers if bars[0].get_gid() == "unknown"]
    return [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars]


def triggers(axes):
    """Return by place what is written above the axes, letters by what the key says of them."""
    (above,) = axes.child_axes
    _, *keys = axes.get_xlabel().split("\n")
    key = dict(line.split(": ", 1) for line in keys if ": " in line)
    texts = [text.get_text() for text in above.get_xticklabels()]
    if key:
        texts = [" | ".join(key[letter] for letter in text.split(",")) for text in texts]
    return dict(zip(above.get_xticks().tolist(), texts, strict=True))


def marks(axes):
    return [line.get_xdata()[0] for line in axes.lines if line.get_gid() == "transition"]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_plan_by_epochs():
    figure = plots.schedule(gradual({0: "head", 2: "mid", 5: "low"}, rates=2.0), build(), 9)
    axes, bar = figure.axes
    np.testing.assert_allclose(
        rates(axes), [[np.nan, np.nan, 0.025], [np.nan, 0.05, 0.05], [0.1, 0.1, 0.1]]
    )
    assert axes.collections[0].get_coordinates()[0, :, 0].tolist() == [0, 2, 5, 9]
    assert frozen(axes) == {"low": [(0, 5)], "mid": [(0, 2)]}
    assert triggers(axes) == {2.0: "after 2 epochs", 5.0: "after 3 epochs"}
    assert marks(axes) == [2, 5]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["low", "mid", "head"]
    assert legend(axes) == ["frozen"]
    assert bar.get_ylabel() == "learning rate"
    assert axes.collections[0].norm.__class__.__name__ == "LogNorm"  # a factor of 4


def test_rates_that_hardly_differ_are_on_a_linear_map():
    axes, bar = plots.schedule(gradual(1, rates={"mid": 0.8}), build(), 4).axes
    norm = axes.collections[0].norm
    assert (norm.__class__.__name__, norm.vmin, norm.vmax) == (
        "Normalize",
        pytest.approx(0.08),
        pytest.approx(0.1),
    )
    assert [text.get_text() for text in bar.get_yticklabels()] == ["8e-2", "1e-1"]


def test_phases_that_wait_for_a_metric_have_no_epoch():
    axes, _ = plots.schedule(gradual(OnPlateau("loss", 2) | 9), build(), 30).axes
    assert axes.collections[0].get_coordinates()[0, :, 0].tolist() == [0, 1, 2, 3]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "?", "?", "?"]
    assert "not to scale" in axes.get_xlabel()
    said = "loss stalls for 2 epochs, or after 9 epochs"
    assert triggers(axes) == {1.0: said, 2.0: said, 3.0: said}
    assert frozen(axes) == {"low": [(0, 2)], "mid": [(0, 1)]}


def test_a_phase_in_the_middle_of_an_epoch_and_one_that_is_not_reached():
    plan = FreezeSchedule([Phase(2, until=AfterSteps(6)), Phase(1, until=9), Phase()])
    axes, _ = plots.schedule(plan, build(), 3, steps_per_epoch=4).axes
    assert axes.collections[0].get_coordinates()[0, :, 0].tolist() == [0, 1.5, 3]
    assert triggers(axes) == {1.5: "after 6 steps"}
    assert frozen(axes) == {"low": [(0, 3)], "mid": [(0, 1.5)]}


def test_the_end_of_the_fit_and_what_comes_before_a_schedule():
    plan = FreezeSchedule([Phase(2, until=1), Phase(until=2)], start=2)
    axes, _ = plots.schedule(plan, build(), 9).axes
    assert axes.get_xlim() == (0, 5)
    assert triggers(axes) == {3.0: "after 1 epoch", 5.0: "after 2 epochs"}
    assert unknown(axes) == [(0, 2)]
    assert legend(axes) == ["frozen", "as the model's flags say"]


def test_what_is_decided_later_is_not_drawn_as_known():
    x, y = np.ones((4, 4), "float32"), np.ones((4, 3), "float32")
    plan = FreezeSchedule([Phase(2, until=2), Phase(TopGradient(1, x, y))])
    axes, _ = plots.schedule(kf.FreezeScheduler(plan, backbone=["low", "mid"]), build(), 6).axes
    assert unknown(axes) == [(2, 6)]
    assert frozen(axes) == {"low": [(0, 2)], "mid": [(0, 2)]}
    assert legend(axes) == ["frozen", "decided as it begins"]


def test_the_plan_of_an_adaptive_schedule_is_open():
    axes, _ = plots.schedule(kf.AutoFreeze(intervals=4), build(), 8, steps_per_epoch=2).axes
    assert unknown(axes) == [(2, 8)]
    assert triggers(axes) == {2.0: "after 4 steps"}
    axes, _ = plots.schedule(gradual("auto"), build(), 20).axes
    assert frozen(axes) == {"low": [(0, 2)], "mid": [(0, 1)]}  # the first round, an epoch each
    assert legend(axes) == ["frozen", "decided while it trains"]


def test_a_curve_is_named():
    plan = FreezeSchedule([Phase(1, until=2, curve=Cosine(9)), Phase()])
    _, bar = plots.schedule(plan, build(), 4).axes
    assert bar.get_ylabel() == "learning rate, before Cosine"


def test_groups_that_freeze_again_as_it_happened():
    rows = (
        RecordRow(0.0, 0, "", {"mid": 0.01, "top": 0.1}, 5),
        RecordRow(1.0, 1, "depth 1 is dropped", {"top": 0.1}, 4),
        RecordRow(2.5, 2, "depth 2 wins", {"low": 0.001, "mid": 0.01, "top": 0.1}, 9),
    )
    axes, bar = plots.schedule(ScheduleRecord("net", GROUPS, rows, 4.0)).axes
    assert frozen(axes) == {"low": [(0, 2.5)], "mid": [(1, 2.5)]}
    np.testing.assert_allclose(
        rates(axes), [[np.nan, np.nan, 0.001], [0.01, np.nan, 0.01], [0.1, 0.1, 0.1]]
    )
    assert triggers(axes) == {1.0: "depth 1 is dropped", 2.5: "depth 2 wins"}
    assert axes.get_xlim() == (0, 4)
    assert [text.get_text() for text in bar.get_yticklabels()] == ["1e-3", "1e-2", "1e-1"]


def test_what_happened_by_callback_and_by_history():
    model, callback = build(), gradual(1, rates=2.0, log_details=True)
    with pytest.raises(
        ValueError, match=r"plots.schedule\(source=\.\.\.\) must be a callback that"
    ):
        plots.schedule(callback)
    x, y = np.ones((4, 4)), np.ones((4, 3))
    history = model.fit(x, y, epochs=4, verbose=0, callbacks=[callback])
    expected = [[np.nan, np.nan, 0.025, 0.025], [np.nan, 0.05, 0.05, 0.05], [0.1] * 4]
    axes, _ = plots.schedule(callback).axes
    np.testing.assert_allclose(rates(axes), np.array(expected)[:, :3], rtol=1e-6)
    assert axes.collections[0].get_coordinates()[0, :, 0].tolist() == [0, 1, 2, 4]
    assert triggers(axes) == {1.0: "after 1 epoch", 2.0: "after 1 epoch"}
    axes, _ = plots.schedule(history).axes
    np.testing.assert_allclose(rates(axes), expected, rtol=1e-6)
    assert marks(axes) == [1, 2]
    assert not axes.child_axes


def test_thirty_groups_and_their_triggers_stay_within_a_notebook():
    model = build(30)
    callback = kf.GradualUnfreeze(2, verbose=0)
    figure = plots.schedule(callback, model, 60)
    axes = figure.axes[0]
    assert figure.get_figwidth() <= 9
    assert len(axes.get_yticklabels()) == 30
    assert triggers(axes) == {2.0: "after 2 epochs, each"}  # once, since all are alike
    phases = [Phase(29 - n, until=1 + n % 2 if n < 29 else None) for n in range(30)]
    axes = plots.schedule(FreezeSchedule(phases), model, 60).axes[0]
    said = [text for texts in triggers(axes).values() for text in texts.split(" | ")]
    assert said == [f"after {1 + n % 2} epoch{'s' * (n % 2)}" for n in range(29)]


def test_labels_that_would_stand_on_each_other_are_put_together():
    plan = FreezeSchedule([Phase(2, until=AfterSteps(1)), Phase(1, until=AfterSteps(2)), Phase()])
    axes = plots.schedule(plan, build(), 9, steps_per_epoch=9).axes[0]
    ((place, text),) = triggers(axes).items()
    assert (place, text) == (pytest.approx(1 / 9), "after 1 step | after 2 steps")


def test_into_axes_of_ones_own():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    assert plots.schedule(gradual(), build(), 3, ax=axes) is figure
    assert len(frozen(axes)) == 2


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (
            lambda: plots.schedule(FreezeSchedule({0: 1})),
            ValueError,
            r"model=\.\.\.\) must be given",
        ),
        (lambda: plots.schedule(gradual(), build()), ValueError, r"epochs=\.\.\.\) must be given"),
        (
            lambda: plots.schedule(gradual(), epochs=3),
            ValueError,
            r"epochs=\.\.\.\) must be left out",
        ),
        (lambda: plots.schedule(3), TypeError, r"source=\.\.\.\) must be a callback, a FreezeSch"),
        (
            lambda: plots.schedule({"loss": [1.0]}),
            ValueError,
            "must hold the learning rate of each group.*a history of loss.*log_details=True",
        ),
    ],
)
def test_what_can_not_be_drawn(call, exception, message):
    with pytest.raises(exception, match=f"(?s){message}"):
        call()


def test_a_long_key_names_what_is_left_out():
    groups = tuple(f"block{n}" for n in range(30))
    rows = [
        RecordRow(float(n), n, f"block{n} freezes" if n else "", dict.fromkeys(groups[n:], 0.1), 5)
        for n in range(29)
    ]
    axes, _ = plots.schedule(ScheduleRecord("net", groups, tuple(rows), 30.0)).axes
    _, *keys = axes.get_xlabel().split("\n")
    assert keys[0] == "a: block1 freezes"
    assert len(keys) == 13
    assert keys[-1] == "and 16 more, in the callback's record"
    (above,) = axes.child_axes
    assert "".join(text.get_text() for text in above.get_xticklabels())[:3] == "abc"
