"""A preview tells beforehand what a fit will report, and changes nothing."""

import dataclasses
import io
import json
import re

import keras
import pytest
import rich.console
from effects import compiled, flags, values
from html_cells import html_cells
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze import schedules
from keras_freeze.schedules import (
    AfterSteps,
    Cosine,
    FreezeSchedule,
    OnPlateau,
    Phase,
    Warmup,
)

RATE = 0.5  # of the optimizer that `compiled` gives

SCHEDULES = {
    "gradual": lambda model: schedules.gradual(model),
    "chain_thaw": lambda model: schedules.chain_thaw(model, 1),
    "progressive_freeze": lambda model: schedules.progressive_freeze(model, rates=None),
    "single weights": lambda model: FreezeSchedule(
        [
            Phase(1, weights="kernel", until=1, batch_norm="follow"),
            Phase(kf.policies.FreezeFirst(2), until=1, batch_norm="train"),
            Phase(lambda variable, layer: variable.name == "kernel", batch_norm="statistics"),
        ]
    ),
}


def test_the_rows_are_what_a_fit_reports(any_model, data_for):
    assert_told(SCHEDULES["chain_thaw"], any_model, data_for)


@pytest.mark.parametrize("name", ["gradual", "progressive_freeze"])
def test_the_rows_are_what_a_fit_reports_for_each_schedule(name, batch_norm, data_for):
    assert_told(SCHEDULES[name], batch_norm, data_for)


@pytest.mark.parametrize("build", ["plain", "batch_norm", "nested"])
@pytest.mark.filterwarnings("ignore:.*ends with flags of single variables:UserWarning")
def test_the_rows_count_single_weights_and_batch_norm(build, request, data_for):
    assert_told(SCHEDULES["single weights"], request.getfixturevalue(build), data_for)


def assert_told(schedule_for, build, data_for):
    model = compiled(build(), eager=True)
    schedule = schedule_for(model)
    epochs = len(schedule.phases)
    callback = kf.FreezeScheduler(schedule, verbose=0, log_details=True)
    preview = callback.preview(model, epochs)
    assert preview == schedule.preview(model, epochs)
    x, y = data_for(model)
    history = model.fit(x, y, epochs=epochs, verbose=0, callbacks=[callback]).history
    names = [group.name for group in kf.layer_groups(model)]
    assert [row.phase for row in preview.rows] == history["phase"]
    for n, row in enumerate(preview.rows):
        assert row.trainable_params == history["trainable_params"][n]
        assert row.non_trainable_params == history["non_trainable_params"][n]
        rates = {name: history[f"learning_rate/{name}"][n] for name in names}
        told = {name: RATE * row.rates.get(name, 0.0) for name in names}
        assert told == pytest.approx(rates)
        assert set(row.training) == set(row.rates) == {name for name in names if rates[name]}
        assert row.begins == f"epoch {n + 1}"


def test_of_gradual_unfreezing_too(plain, data_for):
    model = compiled(plain())
    callback = kf.GradualUnfreeze("even", verbose=0, groups={"body": "low|middle", "top": "head"})
    preview = callback.preview(model, 5)
    assert [row.begins for row in preview.rows] == ["epoch 1", "epoch 3"]
    assert [row.trainable_params for row in preview.rows] == [18, 83]
    assert preview.rows[1].rates == pytest.approx({"top": 1, "body": 1 / 2.6})
    history = model.fit(*data_for(model), epochs=5, verbose=0, callbacks=[callback]).history
    assert history["trainable_params"] == [18, 18, 83, 83, 83]


def test_nothing_is_changed(batch_norm, data_for):
    model = compiled(batch_norm(), keras.optimizers.Adam(0.01))
    kf.freeze(model, groups=["block2"])
    model.fit(*data_for(model), batch_size=8, verbose=0)
    optimizer = {v.path: v.numpy().tolist() for v in model.optimizer.variables}
    function = model.train_function
    layers = [layer.trainable for layer in model.layers]
    before = flags(model), {path: value.tolist() for path, value in values(model).items()}
    preview = schedules.chain_thaw(model).preview(model, 9)
    str(preview), preview._repr_html_(), preview.to_dict()
    assert (flags(model), {p: v.tolist() for p, v in values(model).items()}) == before
    assert [layer.trainable for layer in model.layers] == layers
    assert {v.path: v.numpy().tolist() for v in model.optimizer.variables} == optimizer
    assert model.train_function is function


# When.

BEGINNINGS = {  # ends of the phases, epochs, batches per epoch: when each begins
    "epochs": ([2, 3, None], 9, None, ["epoch 1", "epoch 3", "epoch 6"]),
    "not reached": (
        [2, 3, 1, None],
        4,
        None,
        ["epoch 1", "epoch 3", "epoch 6 (not reached)", "epoch 7 (not reached)"],
    ),
    "the last epoch is reached": ([3, None], 4, None, ["epoch 1", "epoch 4"]),
    "steps": ([AfterSteps(7), None], 4, 5, ["epoch 1", "epoch 2, step 2"]),
    "steps of unknown epochs": ([AfterSteps(7), None], 4, None, ["epoch 1", "after phase 0"]),
    "a plateau": ([OnPlateau(patience=2), None], 4, None, ["epoch 1", "after phase 0"]),
    "a plateau too late": (
        [OnPlateau(patience=2), None],
        3,
        None,
        ["epoch 1", "after phase 0 (not reached)"],
    ),
    "after what is not reached": (
        [9, OnPlateau(), None],
        4,
        None,
        ["epoch 1", "epoch 10 (not reached)", "after phase 1 (not reached)"],
    ),
    "a plateau of unknown steps": (
        [9, AfterSteps(3), None],
        4,
        None,
        ["epoch 1", "epoch 10 (not reached)", "after phase 1 (not reached)"],
    ),
}


@pytest.mark.parametrize("case", BEGINNINGS)
def test_when_phases_begin(case, plain):
    ends, epochs, steps, expected = BEGINNINGS[case]
    schedule = FreezeSchedule([Phase(until=end) for end in ends])
    rows = schedule.preview(plain(), epochs, steps_per_epoch=steps).rows
    assert [row.begins for row in rows] == expected


def test_a_late_start(plain):
    rows = FreezeSchedule({2: "low", 4: None}).preview(plain(), 4).rows
    assert [row.begins for row in rows] == ["epoch 3", "epoch 5 (not reached)"]


@pytest.mark.backend
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="has no steps_per_execution")
def test_executions_of_several_batches_count(plain):
    model = plain()
    model.compile("sgd", "mse", steps_per_execution=4)
    schedule = FreezeSchedule([Phase(until=AfterSteps(5)), Phase()])
    assert schedule.preview(model, 3, steps_per_epoch=20).rows[1].begins == "epoch 1, step 8"


# How it looks.


TABLE = """\
plain, 20 epochs, 83 parameters

 phase  begins         trains    trainable  learning rate  curve
 ────────────────────────────────────────────────────────────────
 0      epoch 1        head             18  0.01           Warmup
     ends: val_loss stalls for 3 epochs, or after 4 epochs
 1      after phase 0  + middle         53  0.005          Warmup
     ends: val_loss stalls for 3 epochs, or after 4 epochs
 2      after phase 1  + low            83  0.0025         Warmup
     ends: with the fit"""


def test_the_table_reads_so(plain):
    model = plain()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    schedule = schedules.gradual(model, OnPlateau() | 4, rates=2.0, curve=Warmup(9))
    assert str(schedule.preview(model, 20)) == TABLE


def names(*numbers):
    return [f"stage{n}" for n in numbers]


CHANGES = {  # what each phase freezes of stage0 to stage12 and the head, and what is shown
    "one after the other": (
        [names(*range(13)), names(*range(12)), names(*range(11))],
        ["head", "+ stage12", "+ stage11"],
    ),
    "many at once": (
        [names(*range(13)), names(0), None],
        ["head", "+ stage12, stage11, stage10 and 9 more", "+ stage0"],
    ),
    "all others at once": ([names(*range(13)), None], ["head", "+ all others"]),
    "frozen": (
        [None, names(0), names(0, 1, 2, 3, 4, 5)],
        ["all groups", "- stage0", "- stage5, stage4, stage3 and 2 more"],
    ),
    "one for another": (
        [[*names(*range(12)), "head"], [*names(*range(11), 12), "head"]],
        ["stage12", "+ stage11\n- stage12"],
    ),
    "no group": ([names(0), Phase(names(0), rates=2.0)], [None, "the same"]),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_phase_shows_what_it_changes(case):
    frozen, shown = CHANGES[case]
    preview = FreezeSchedule(dict(enumerate(frozen))).preview(stages(), 3)
    cells = [row[3] for row in html_cells(preview._repr_html_())[1:]]
    assert len(cells) == len(shown)
    for cell, expected in zip(cells, shown, strict=True):
        assert expected in (None, cell)


def stages():
    """A model with 14 layer groups."""
    layers = [keras.layers.Dense(2, name=name) for name in (*names(*range(13)), "head")]
    return keras.Sequential([keras.Input((2,)), *layers], name="resnet")


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("schedule", ["gradual", "chain_thaw", "progressive_freeze"])
def test_with_14_groups_the_text_fits_and_names_stay_whole(schedule, width):
    model = stages()
    preview = SCHEDULES[schedule](model).preview(model, 9)
    text = preview.__rich__().as_text(width)
    assert max(map(len, text.split("\n"))) <= width
    for row in preview.rows:
        assert f"{row.trainable_params:,}" in text
    shown = re.findall(r"[\w…]*stage[\w…]*", text)
    assert set(shown) == set(names(*range(13)))
    assert len(shown) <= 2 * len(preview.rows)


def test_html_escapes_names():
    layers = [keras.layers.Dense(2, name="<b>low"), keras.layers.Dense(2, name='"&top')]
    model = keras.Sequential([keras.Input((2,)), *layers], name="<script>")
    groups = {"<i>low": ["<b>low"], '"&top': ['"&top']}
    schedule = FreezeSchedule([Phase(1, until=1), Phase()])
    preview = schedule.preview(model, 3, groups=groups, rates={"<i>low": 0.5})
    text = preview._repr_html_()
    assert set(re.findall(r"<(\w+)", text)) == {
        *("table", "caption", "div", "thead", "tbody", "tr", "th", "td")
    }
    cells = html_cells(text)
    assert [row[3] for row in cells[1:]] == ['"&top', "+ <i>low"]
    assert "&lt;script&gt;, 3 epochs" in text
    assert "<i>low" in str(preview)  # rich takes no name for markup


def test_names_in_brackets_are_no_markup():
    layers = [keras.layers.Dense(2, name="[red]"), keras.layers.Dense(2, name="top")]
    model = keras.Sequential([keras.Input((2,)), *layers], name="[b]")
    frozen = FreezeSchedule([Phase("[bold]x", until=1), Phase()])
    preview = frozen.preview(model, 1, groups={"[bold]x": ["[red]"], "top": ["top"]})
    console = rich.console.Console(file=io.StringIO(), width=80)
    console.print(preview)
    assert console.file.getvalue().startswith("[b], 1 epoch, 12 parameters")
    assert "+ [bold]x" in console.file.getvalue()


RATES = {  # rates of two phases, their learning rates as multiples, and with 0.01 compiled
    "one for all": ([None, None], ["x1", ""], ["0.01", ""]),
    "by group": (
        [{"low": 0.1}, {"low": 0.1, "head": 2.0}],
        ["head x1, middle x1, low x0.1", "x2"],
        ["head 0.01, middle 0.01, low 0.001", "0.02"],
    ),
}


@pytest.mark.parametrize("case", RATES)
def test_learning_rates(case, plain):
    rates, multiples, numbers = RATES[case]
    model = plain()
    schedule = FreezeSchedule(
        [Phase(rates=rates[0], curve=Cosine(5), until=1), Phase(rates=rates[1])]
    )
    preview = schedule.preview(model, 3)
    assert preview.learning_rate is None
    assert shown_rates(preview) == multiples
    model.compile(keras.optimizers.SGD(0.01), "mse")
    preview = schedule.preview(model, 3)
    assert preview.learning_rate == pytest.approx(0.01)
    assert shown_rates(preview) == numbers
    assert [row[-1] for row in html_cells(preview._repr_html_())[1:]] == ["Cosine", ""]
    model.compile(keras.optimizers.SGD(lambda: 0.01), "mse")
    assert schedule.preview(model, 3) == preview


def shown_rates(preview):
    return [row[5] for row in html_cells(preview._repr_html_())[1:]]


def test_of_many_new_rates_the_first_and_last_are_shown():
    model = stages()
    schedule = FreezeSchedule([Phase(13, until=1), Phase(rates=2.0)])
    assert shown_rates(schedule.preview(model, 3)) == ["x1", "stage12 x0.5 to stage0 x0.000122"]


def test_rates_of_the_callback_are_for_phases_without(plain):
    schedule = FreezeSchedule([Phase(until=1), Phase(rates={"head": 3.0})])
    rows = kf.FreezeScheduler(schedule, rates=2.0).preview(plain(), 2).rows
    assert rows[0].rates == {"head": 1.0, "middle": 0.5, "low": 0.25}
    assert rows[1].rates == {"head": 3.0, "middle": 3.0, "low": 3.0}


def test_rates_that_follow_gradients_are_shown_as_those_of_the_beginning(plain):
    model = compiled(plain())
    found, usual = (kf.GradualUnfreeze(rates=r).preview(model, 9) for r in ("auto", "default"))
    assert (found.rates_follow, usual.rates_follow) == (True, False)
    assert found.rows == usual.rows
    assert "learning rate, at first" in str(found)
    assert "at first" not in str(usual)


def test_plain_data(plain):
    preview = schedules.gradual(plain(), 2).preview(plain(), 5)
    data = json.loads(json.dumps(preview.to_dict()))
    assert data["rows"][2]["begins"] == "epoch 5"
    assert data["rows"][2]["training"] == ["head", "middle", "low"]
    assert repr(preview) == "SchedulePreview(model='plain', epochs=5, phases=3)"


@pytest.mark.parametrize("epochs", [0, 2.5, None])
def test_the_epochs_are_a_number(epochs, plain):
    message = re.escape(
        f"preview(epochs=...) must be a positive integer. Received: epochs={epochs}"
    )
    with pytest.raises(ValueError, match=message):
        schedules.gradual(plain()).preview(plain(), epochs)


def test_unknown_names_are_refused(plain):
    with pytest.raises(ValueError, match="must name layer groups of the model"):
        FreezeSchedule({0: "lwo"}).preview(plain(), 3)
    with pytest.raises(ValueError, match="must name layer groups of the model"):
        FreezeSchedule({0: Phase(rates={"lwo": 0.5})}).preview(plain(), 3)


def test_when_phases_begin_and_end_as_numbers(plain):
    phases = [Phase(2, until=AfterSteps(6)), Phase(1, until=OnPlateau("loss")), Phase(0, until=2)]
    preview = FreezeSchedule(phases).preview(plain(), 2, steps_per_epoch=4)
    assert [row.epochs for row in preview.rows] == [0.0, 1.5, None]
    assert [row.is_reached for row in preview.rows] == [True, True, False]
    assert preview.end is None
    ends = FreezeSchedule([Phase(1, until=2), Phase(until=AfterSteps(2))])
    assert ends.preview(plain(), 9, steps_per_epoch=4).end == 2.5
    assert ends.preview(plain(), 9).end is None
    assert schedules.gradual(plain(), 2).preview(plain(), 9).end == 9.0
    adaptive = kf.AutoFreeze(intervals=3).preview(plain(), 6, 4)
    assert (adaptive.is_open, adaptive.end) == (True, 2.0)
    assert not preview.is_open


def test_the_memory_of_each_phase_is_that_of_a_report_then(batch_norm, data_for):
    model = compiled(batch_norm(), keras.optimizers.Adam(), eager=True)
    callback = kf.GradualUnfreeze(1, verbose=0, cache=False)
    preview = callback.preview(model, 3, batch_size=8)
    found = []

    def note(epoch, logs):
        found.append(kf.parameter_report(model, batch_size=8).memory)

    noting = keras.callbacks.LambdaCallback(on_epoch_end=note)
    model.fit(*data_for(model), batch_size=8, epochs=3, verbose=0, callbacks=[callback, noting])
    assert len(found) == len(preview.rows) == 3
    for row, then in zip(preview.rows, found, strict=True):
        assert row.memory == dataclasses.replace(then, served=None)
    sizes = [row.memory.total_bytes for row in preview.rows]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_the_memory_is_a_column_only_where_it_is_asked_for(plain):
    model = compiled(plain())
    without = schedules.gradual(model).preview(model, 6)
    assert "memory" not in str(without)
    assert "memory" not in without.to_dict()["rows"][0]
    preview = schedules.gradual(model).preview(model, 6, batch_size=8)
    header, *rows = html_cells(preview._repr_html_())
    assert header[-1] == "memory"
    assert all(re.fullmatch(r"[\d.]+ K?B", row[-1]) for row in rows)
    assert "memory of a step with batches of 8" in str(preview)
    assert json.dumps(preview.to_dict()["rows"][0]["memory"]["total_bytes"])


def test_why_memory_is_not_known_is_said_once():
    model = keras.Sequential(
        [keras.Input((None, 4)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)]
    )
    model.compile("sgd", "mse")
    shown = str(schedules.gradual(model).preview(model, 6, batch_size=8))
    assert shown.count("Activations are not known: the length of the input varies") == 1
    assert "at least" in shown


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (lambda: kf.GradualUnfreeze("auto"), ["val_loss", "the worse half drops out"]),
        (
            lambda: kf.GradualUnfreeze(schedules.Auto("sequence", "val_auc", patience=2)),
            ["a gain in val_auc is undone: after 2 groups without one, training goes on at"],
        ),
        (
            lambda: kf.GradualUnfreeze(schedules.Auto("sequence", then="stop")),
            ["after 1 group without one, training ends at the best depth"],
        ),
        (
            lambda: kf.AutoFreeze(intervals=7),
            ["After each of 7 intervals", "settled (change of the gradient's norm)"],
        ),
    ],
    ids=["race", "sequence", "stops", "freezes"],
)
def test_what_decides_is_told_below_the_table(callback, expected, pretrained):
    preview = callback().preview(pretrained, 40)
    assert preview.is_open
    assert all(text in " ".join(preview.remarks) for text in expected)
    shown = " ".join(str(preview).split())
    assert all(text in shown for text in expected)
    assert not kf.GradualUnfreeze().preview(pretrained, 40).remarks


def test_what_a_fit_says_first_a_preview_says_too(pretrained):
    race = kf.GradualUnfreeze("auto").preview(pretrained, 6).remarks
    assert race[0].startswith("GradualUnfreeze: depths ")
    few = kf.GradualUnfreeze().preview(pretrained, 2).remarks
    assert "2 epochs" in few[0]


@pytest.mark.parametrize("schedule", ["even", "auto"])
def test_that_nothing_is_pretrained_is_told(schedule, pretrained):
    untrained = keras.models.clone_model(pretrained)
    (remark,) = kf.GradualUnfreeze(schedule).preview(untrained, 6).remarks
    untrained.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="nothing in model 'net' is pretrained") as told:
        untrained.fit(
            keras.ops.ones((2, 3)),
            keras.ops.ones((2, 1)),
            verbose=0,
            callbacks=[kf.GradualUnfreeze(schedule, verbose=0)],
            validation_data=(keras.ops.ones((2, 3)), keras.ops.ones((2, 1))),
        )
    assert remark in [str(one.message) for one in told]


@pytest.fixture
def pretrained():
    parts = [keras.layers.Dense(4, name=f"block{n}") for n in range(3)]
    model = keras.Sequential([keras.Input((3,)), *parts, keras.layers.Dense(1)], name="net")
    return as_if_trained(model)
