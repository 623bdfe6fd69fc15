"""Where in a file something stands, also for the errors that only the model shows."""

import copy
import pickle
import re

import numpy as np
import pytest

import keras_freeze as kf
from keras_freeze.schedules import Phase
from keras_freeze.schedules.locations import Misplaced, Source, placed

SOURCE = Source("plan.yaml", ("phases", 1), {"": 4, "frozen": 5, "until": 7})


def test_a_source_gives_the_line_of_a_key_or_of_the_phase():
    assert SOURCE.at("until") == "plan.yaml, line 7, phases[1].until"
    assert SOURCE.at("rates") == "plan.yaml, line 4, phases[1]"


@pytest.mark.parametrize("kind", [TypeError, ValueError])
def test_an_error_of_a_phase_from_a_file_is_placed_there(kind):
    error = kind("it is wrong.")
    with pytest.raises(Misplaced) as caught, placed(Phase(source=SOURCE), "frozen", "a note"):
        raise error
    assert caught.value.__cause__ is error
    assert (caught.value.path, caught.value.problem) == (("phases", 1, "frozen"), "it is wrong.")
    assert str(caught.value) == "plan.yaml, line 5, phases[1].frozen: it is wrong."
    for clone in (copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):
        assert str(clone) == str(caught.value)


@pytest.mark.parametrize("notes", [[], ["In phase 1."]])
def test_an_error_of_another_phase_stays_as_it_is_with_a_note(notes):
    error = ValueError("it is wrong.")
    with pytest.raises(ValueError) as caught, placed(Phase(), "frozen", *notes):
        raise error
    assert caught.value is error
    assert getattr(error, "__notes__", []) == notes


def test_other_errors_pass_through():
    with pytest.raises(KeyError), placed(Phase(source=SOURCE), "frozen"):
        raise KeyError("x")


def fitted(model, data_for, path, epochs=3, **settings):
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    callback = kf.FreezeScheduler(path, verbose=0, **settings)
    return model.fit(*data_for(model), epochs=epochs, verbose=0, callbacks=[callback])


# Errors that only the model shows.

AT_A_FIT = {  # the phases, and line, key and message
    "an unknown group": (
        "- frozen: [low]\n    until: 1\n  - frozen:\n    - midle\n    - low",
        "line 5, phases[1].frozen: FreezeGroups(groups=...) must name layer groups of the model. "
        "Received: 'midle'. Did you mean 'middle'? Available groups: low, middle, head.",
    ),
    "a pattern that matches nothing": (
        "- frozen: ['block[12]']",
        "line 3, phases[0].frozen: FreezeGroups(groups=...) must name layer groups of the model. "
        "Received: 'block[12]'. ",
    ),
    "two entries for one group": (
        "- frozen: [low, 'm.*|low']",
        "line 3, phases[0].frozen: FreezeGroups(groups=...) must name each group once. Received: "
        "'low' and 'm.*|low', which both stand for 'low'. Remove one of the two.",
    ),
    "a group in two rates": (
        "- frozen: []\n    rates:\n      middle: 0.5\n      m.*: 0.1",
        "line 4, phases[0].rates: FreezeScheduler(rates=...) must name each group once. Received: "
        "'middle' and 'm.*', which both stand for 'middle'. Remove one of the two.",
    ),
    "an unknown group in rates": (
        "- frozen: []\n    rates: {lwo: 0.5}",
        "line 4, phases[0].rates: FreezeScheduler(rates=...) must name layer groups of the model. "
        "Received: 'lwo'. Did you mean 'low'? Available groups: low, middle, head.",
    ),
    "an unknown layer": (
        "- frozen: {not: {layers: [haed]}}",
        "line 3, phases[0].frozen: FreezeLayers(layers=...) must name layers of model 'plain'. "
        "Received: 'haed'. Did you mean 'head'? ",
    ),
    "unknown weights": (
        "- frozen: [low]\n    weights: kernle",
        "line 4, phases[0].weights: FreezeWeights(names=...) must name variables of the layers "
        "chosen. Received: names='kernle'. Did you mean 'kernel'? Available: bias, kernel.",
    ),
    "nothing to train": (
        "- until: 1\n    frozen: 3\n  - frozen: []",
        "line 4, phases[0].frozen: FreezeScheduler(schedule=...) must leave at least one trainable "
        "variable. Received: the phase at epoch 0, which freezes all of model 'plain'. Leave out a "
        "group of: low, middle, head.",
    ),
    "a phase too late": (
        "- frozen: 2\n    until: 2\n  - frozen: 1\n    until: {epochs: 2}\n  - frozen: 0",
        "line 6, phases[1].until: the phase at epoch 4 is not reached in 3 epochs. Train longer or "
        "begin it earlier; where training is split over several fits, pass total_epochs=.",
    ),
    "a phase too many steps away": (
        "- frozen: 2\n    until:\n      steps: 6\n  - frozen: 0",
        "line 4, phases[0].until: the phase at epoch 6 is not reached in 3 epochs. ",
    ),
    "a phase that can't be reached at best": (
        "- frozen: 2\n    until: 1\n  - frozen: 1\n    until: {plateau: {monitor: loss}}\n"
        "  - frozen: 0",
        "line 6, phases[1].until: phase 2 is not reached in 3 epochs, as it can't begin before "
        "epoch 5. Train longer or begin it earlier",
    ),
    "a curve of unknown length": (
        "- frozen: 0\n    until: {plateau: {monitor: loss}}\n    curve: cosine",
        "line 5, phases[0].curve: Cosine(steps=...) must be given where the length of the phase "
        "isn't known beforehand. ",
    ),
}


@pytest.mark.parametrize("case", AT_A_FIT)
def test_what_a_fit_finds_wrong_names_line_and_key_too(case, plain, data_for, tmp_path):
    text, message = AT_A_FIT[case]
    path = tmp_path / "plan.yaml"
    path.write_text(f"schema: 1\nphases:\n  {text}\n")
    model = plain()
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"^{re.escape(f'plan.yaml, {message}')}"):
        fitted(model, data_for, path)
    assert all(v.trainable for v in model.weights)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_start_too_late(plain, data_for, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("schema: 1\nstart: 3\nphases:\n  - frozen: 1\n")
    with pytest.raises(ValueError, match=r"^plan\.yaml, line 4, phases\[0\]: the phase at epoch 3"):
        fitted(plain(), data_for, path)
    fitted(plain(), data_for, path, epochs=1, total_epochs=4)
