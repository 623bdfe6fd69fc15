"""A report with a batch size says what the memory of a step is, and what would reduce it."""

import json

import keras
import pytest
from keras import layers

import keras_freeze as kf
from keras_freeze.memory import MeasuredMemory, StepMemory
from keras_freeze.reports.memory_lines import in_short, memory_notes, memory_rows


def build(width=4, dropout=0.0):
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(width, 3, padding="same", activation="relu", name="low"),
            layers.Conv2D(width, 3, padding="same", activation="relu", name="mid"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(dropout),
            layers.Dense(2, name="head"),
        ],
        name="net",
    )
    model.compile(keras.optimizers.Adam(), "mse")
    return model


def report(model, batch_size=32):
    return kf.parameter_report(model, batch_size=batch_size)


def test_without_a_batch_size_nothing_is_said():
    text, found = str(kf.parameter_report(build())), kf.parameter_report(build()).to_dict()
    assert "memory" not in text
    assert set(found) == {
        *("model", "by", "rows", "trainable_params", "non_trainable_params", "total_params"),
        *("trainable_bytes", "non_trainable_bytes", "total_bytes"),
    }


def test_the_rows_add_up():
    memory = report(build()).memory
    shown = dict(memory_rows(memory))
    names = ("weights", "gradients", "optimizer state", "activations kept", "computed at a time")
    assert list(shown)[2:] == [*names, "estimate"]
    parts = (memory.weight_bytes, memory.gradient_bytes, memory.optimizer_bytes)
    assert memory.total_bytes == sum(parts) + memory.activation_bytes + memory.working_bytes
    # Two pictures of 16 × 16 × 4, the mean and the output, for 32 samples.
    assert memory.activation_bytes == 32 * (2 * 1024 + 4 + 2) * 4
    assert shown["activations kept"] == "256.75 KB"


def test_the_table_shows_them_as_text_and_in_a_notebook():
    one = report(build())
    lines = str(one).splitlines()
    assert any(line.split()[:2] == ["activations", "kept"] for line in lines)
    assert "batch size 32:" in str(one)
    page = one._repr_html_()
    assert "activations kept" in page
    assert "<p>Activations are" in page
    assert max(map(len, lines)) <= 80


def test_activations_that_freezing_in_the_middle_does_not_reduce():
    model = build()
    kf.freeze(model, layers=["mid"])
    (note,) = memory_notes(report(model).memory)  # there is nothing for a cache
    assert note.startswith("Activations are 99 % of it: all above 'low', the lowest layer that")
    assert "keep theirs, although 55 % of the weights are frozen" in note
    assert "Freeze from the input up, use the prefix cache, or take smaller batches." in note


def test_the_saving_of_the_cache_is_said():
    model = build()
    kf.freeze(model, layers=["low"])
    note, cache = memory_notes(report(model).memory)
    assert "although" not in note
    assert cache.startswith("With the prefix cache the layers up to low are not computed in a step")
    assert cache.endswith("and 4.00 KB a sample are kept.")
    kf.freeze(model, layers=["low", "mid"])
    memory = report(model).memory
    note, cache = memory_notes(memory)
    assert note.endswith(
        "while one layer is computed: use the prefix cache, or take smaller batches."
    )
    assert "up to dropout" in cache
    # Two pictures of 4 KB for 32 samples, but for what a step takes anyway.
    assert memory.working_bytes - memory.served.working_bytes > 200 * 1024
    assert "a step takes 25" in cache
    assert cache.endswith("and 16.00 B a sample are kept.")


def memory(**parts):
    given = dict.fromkeys(
        ("weight_bytes", "frozen_bytes", "gradient_bytes", "optimizer_bytes"), 0
    ) | {"activation_bytes": 0, "working_bytes": 0}
    return StepMemory(batch_size=8, **{**given, **parts})


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"weight_bytes": 70, "gradient_bytes": 30}, "Weights are 70 % of it, and freezing does"),
        (
            {"weight_bytes": 25, "gradient_bytes": 25, "optimizer_bytes": 50},
            "Gradients and optimizer state are 75 % of it: freezing any weights reduces them.",
        ),
        ({"weight_bytes": 10, "working_bytes": 90}, "Activations are 90 % of it, most of them"),
    ],
    ids=["weights", "state", "none kept"],
)
def test_what_makes_most_of_it(parts, text):
    assert memory_notes(memory(**parts))[0].startswith(text)


def test_what_is_not_known_is_said():
    model = keras.Sequential([keras.Input((None, 4)), layers.Dense(2)], name="long")
    one = report(model).memory
    notes = memory_notes(one)
    assert notes[0].startswith("Activations are not known: the length of the input varies")
    assert notes[1] == "The optimizer's state is not known: the model is not compiled."
    assert in_short(one) == "at least 80.00 B"
    assert dict(memory_rows(one))["optimizer state"] == "not known"
    json.dumps(report(model).to_dict())


def test_many_doubts_are_counted():
    notes = memory_notes(memory(weight_bytes=1, doubts=tuple(f"layer {n}" for n in range(5))))
    assert notes[1:] == ("layer 0.", "layer 1.", "layer 2.", "2 more are counted so.")


def test_what_the_compiler_says_stands_below_the_estimate():
    found = MeasuredMemory(
        argument_bytes=2048, output_bytes=1024, shared_bytes=512, temporary_bytes=512
    )
    rows = memory_rows(memory(weight_bytes=1024, measured=found))
    assert rows[-2:] == [("estimate", "1.00 KB"), ("XLA, measured", "3.00 KB")]


def test_as_plain_data():
    found = json.loads(json.dumps(report(build()).to_dict()))["memory"]
    one = report(build()).memory
    assert found["batch_size"] == 32
    assert found["total_bytes"] == one.total_bytes
    assert found["activation_bytes"] == one.activation_bytes
    assert found["lowest"] == "low"
    assert found["served"] is None
