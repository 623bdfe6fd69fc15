"""Schedules as files: what is written comes back, and every mistake is named by line and key."""

import json
import os
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_freeze as kf
from keras_freeze import policies, schedules
from keras_freeze.schedules import (
    AfterEpochs,
    AfterSteps,
    AllOf,
    AnyOf,
    Cosine,
    FreezeSchedule,
    OnPlateau,
    Phase,
    SlantedTriangular,
    Warmup,
    marked_yaml,
    yaml_file,
)
from keras_freeze.schedules.as_dict import fingerprint

# What is written.

TEXT = """\
# A schedule of keras_freeze: which layer groups are frozen in which phase of training.
# Everything that is not named as frozen trains. Edit it, then run it:
#     model.fit(..., callbacks=[keras_freeze.FreezeScheduler("plan.yaml")])
#
# Keys of a phase:
#   frozen        names or patterns of layer groups, such as [block1, "block[23]"], or a number
#                 of groups from the input; or one of first, before, layers, matching
#   weights       only these variables of what is frozen: kernel, bias, ...
#   until         what ends it: {epochs: 2}, {steps: 500}, {plateau: {monitor: val_loss}},
#                 or {any: [...]} and {all: [...]} of these
#   rates         learning rate by group, as multiples of the compiled one, or a factor
#   batch_norm    frozen, follow, statistics or train
#   restore_best  true: go back to the best epoch of the phase when it ends
#   curve         warmup, slanted_triangular or cosine, over the steps of the phase
#
# Layer groups of the model it was written for, from input to head:
#   low               30 parameters
#   middle            35 parameters
#   head              18 parameters

schema: 1
start: 2  # before this epoch the flags stay as they are
phases:

  # phase 0, from epoch 3: head trains
  - frozen: [low, middle]
    rates: default
    until: {epochs: 2}
    curve:
      warmup: {steps: 100}

  # phase 1, from epoch 5: head, middle train
  - frozen: [low]
    rates: {middle: 0.5}
    until:
      any:
      - plateau: {monitor: val_loss, patience: 2}
      - {steps: 500}
    restore_best: true

  # phase 2: head, middle, low train
  - frozen: []
"""
GROUPS = (("low", 30), ("middle", 35), ("head", 18))
SCHEDULE = FreezeSchedule(
    [
        Phase(["low", "middle"], rates="default", until=2, curve=Warmup(100)),
        Phase(
            ["low"],
            rates={"middle": 0.5},
            until=OnPlateau(patience=2) | AfterSteps(500),
            restore_best=True,
        ),
        Phase(),
    ],
    start=2,
    groups=GROUPS,
)


def test_a_file_reads_so(tmp_path):
    path = tmp_path / "plan.yaml"
    SCHEDULE.to_yaml(path)
    assert path.read_text() == TEXT
    assert FreezeSchedule.from_yaml(str(path)) == SCHEDULE


@pytest.mark.backend
def test_a_builders_file_runs_as_it_is_and_edited(plain, data_for, tmp_path):
    model = plain()
    path = tmp_path / "plan.yaml"
    schedules.gradual(model).to_yaml(path)
    assert fitted(model, data_for, path).history["trainable_params"] == [18, 53, 83]
    path.write_text(path.read_text().replace("frozen: [low, middle]", 'frozen: ["m.*|head"]'))
    assert fitted(plain(), data_for, path).history["trainable_params"] == [30, 53, 83]


def fitted(model, data_for, path, epochs=3, **settings):
    model.compile("sgd", "sparse_categorical_crossentropy")
    callback = kf.FreezeScheduler(path, verbose=0, **settings)
    return model.fit(*data_for(model), epochs=epochs, verbose=0, callbacks=[callback])


def test_no_file_is_overwritten_unasked(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("mine")
    message = (
        r"FreezeSchedule\.to_yaml\(path=\.\.\.\) must not name a file that is there.*plan\.yaml"
    )
    with pytest.raises(FileExistsError, match=message + r".*overwrite=True"):
        SCHEDULE.to_yaml(path)
    assert path.read_text() == "mine"
    SCHEDULE.to_yaml(path, overwrite=True)
    assert FreezeSchedule.from_yaml(path) == SCHEDULE


class FreezeNothing(policies.FreezePolicy):
    def select(self, model):
        return policies.Selection()


class Never(schedules.Trigger):
    def fired(self, state):
        return False


class Flat(schedules.Curve):
    steps = None

    def factor(self, step, steps):
        return 1.0


def is_bias(variable, layer):
    return variable.name == "bias"


UNWRITABLE = {
    "a callable frozen": (Phase(is_bias), "is_bias"),
    "a callable in a policy": (Phase(policies.FreezeFirst(1) | is_bias), "is_bias"),
    "a callable under weights": (Phase(policies.FreezeWeights("kernel", is_bias)), "is_bias"),
    "a policy of one's own": (Phase(FreezeNothing()), "FreezeNothing"),
    "a callable until": (Phase(until=lambda logs: True), "lambda"),
    "a callable in a trigger": (Phase(until=OnPlateau() | (lambda logs: True)), "lambda"),
    "a trigger of one's own": (Phase(until=Never() | 2), "Never"),
    "a curve of one's own": (Phase(curve=Flat()), "Flat"),
    "a callable division": (Phase(policies.FreezeGroups("a", lambda layer: "a")), "lambda"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_a_file_cant_hold_is_refused(case, tmp_path):
    phase, name = UNWRITABLE[case]
    schedule = FreezeSchedule([phase])
    message = rf"policies, triggers and curves of keras_freeze only\. Received: .*{name}.*Say it by"
    with pytest.raises(TypeError, match=message):
        schedule.to_yaml(tmp_path / "plan.yaml")
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match=message):
        schedule.to_dict()
    assert name in json.dumps(fingerprint(schedule))  # what a backup compares schedules by


ODD_NAMES = (
    "a\nphases: []",
    "b: c # d",
    "- e",
    "\u2028",
    "größe",
    "{f}",
    "'g\"",
    "yes",
    "1e5",
    "*h",
)


def test_odd_names_stay_in_their_comments_and_come_back(tmp_path):
    path = tmp_path / "odd\nname {}.yaml"
    schedule = FreezeSchedule(
        [Phase(ODD_NAMES[:n], until=1) for n in range(len(ODD_NAMES) + 1)],
        groups=tuple((name, 1) for name in ODD_NAMES),
    )
    schedule.to_yaml(path)
    assert FreezeSchedule.from_yaml(path) == schedule
    text = path.read_text(encoding="utf-8")
    assert all(line.isprintable() for line in text.split("\n"))
    assert "#   größe" in text
    assert "[größe]" in text or "größe," in text


# What is written comes back.

NAMES = st.one_of(
    st.text(max_size=5), st.sampled_from(["no", "1e3", "0x1", "1:30", "~", "<<", "="])
)
SPECS = st.one_of(NAMES, st.lists(NAMES, max_size=2))
DIVISIONS = st.one_of(
    st.none(), st.dictionaries(NAMES, SPECS, max_size=2), st.lists(SPECS, max_size=2)
)
NUMBERS = st.floats(0.001, 1000).filter(lambda x: x > 0)
SIMPLE_POLICIES = st.one_of(
    st.builds(policies.FreezeFirst, st.integers(-9, 9)),
    st.builds(policies.FreezeBefore, st.one_of(st.integers(-9, 9), NAMES)),
    st.builds(policies.FreezeLayers, st.lists(st.one_of(st.integers(), NAMES), min_size=1)),
    st.builds(policies.FreezeMatching, st.text(min_size=1, max_size=5).map(re.escape)),
    st.builds(
        policies.FreezeGroups,
        st.one_of(st.integers(-9, 9), NAMES, st.lists(NAMES, min_size=1, max_size=3)),
        DIVISIONS,
    ),
)
POLICIES = st.recursive(
    SIMPLE_POLICIES,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a, b: a & b, inner, inner),
        inner.map(lambda policy: ~policy),
        st.builds(policies.FreezeWeights, st.lists(NAMES, min_size=1, max_size=2), inner),
        st.builds(policies.FreezeWeights, NAMES),
    ),
    max_leaves=4,
)
MONITORS = st.sampled_from(["val_loss", "accuracy", "val_f1"])
TRIGGERS = st.recursive(
    st.one_of(
        st.builds(AfterEpochs, st.integers(1, 10**6)),
        st.builds(AfterSteps, st.integers(1, 10**9)),
        st.builds(
            OnPlateau,
            MONITORS,
            st.integers(1, 9),
            st.floats(0, 1),
            st.sampled_from(["auto", "min", "max"]),
            st.integers(0, 9),
        ),
        st.builds(OnPlateau, NAMES.filter(bool), mode=st.sampled_from(["min", "max"])),
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(AnyOf),
        st.lists(inner, min_size=1, max_size=3).map(AllOf),
    ),
    max_leaves=5,
)
CURVES = st.one_of(
    st.builds(Warmup, st.integers(1, 10**6)),
    st.builds(
        SlantedTriangular,
        st.one_of(st.none(), st.integers(1, 99)),
        st.floats(0.01, 0.99),
        st.floats(1.1, 99),
    ),
    st.builds(Cosine, st.one_of(st.none(), st.integers(1, 99)), st.floats(0, 0.99)),
)
PHASES = st.builds(
    Phase,
    st.one_of(st.none(), st.integers(-9, 9), NAMES, st.lists(NAMES, max_size=3), POLICIES),
    rates=st.one_of(
        st.none(),
        st.just("default"),
        st.floats(1, 1000),
        st.dictionaries(NAMES, NUMBERS, max_size=3),
    ),
    batch_norm=st.sampled_from(["frozen", "follow", "statistics", "train"]),
    weights=st.one_of(st.just("all"), NAMES, st.lists(NAMES, min_size=1, max_size=2)),
    until=TRIGGERS,
    restore_best=st.one_of(st.booleans(), MONITORS),
    curve=st.one_of(st.none(), CURVES),
)
SCHEDULES = st.builds(
    FreezeSchedule,
    st.lists(PHASES, min_size=1, max_size=3),
    st.integers(0, 9),
    st.lists(st.tuples(NAMES, st.integers(0, 10**9)), max_size=2).map(tuple),
)


@given(SCHEDULES)
def test_any_schedule_comes_back_from_plain_data(schedule):
    data = json.loads(json.dumps(schedule.to_dict()))
    again = FreezeSchedule.from_dict(data)
    assert again == schedule
    assert again.to_dict() == schedule.to_dict() == fingerprint(schedule)
    assert [phase.trigger for phase in again.phases] == [p.trigger for p in schedule.phases]


@given(SCHEDULES)
def test_any_schedule_comes_back_from_its_file(schedule):
    text = yaml_file.dumps(schedule, "plan.yaml")
    again = yaml_file.loads(text, "plan.yaml")
    assert again == schedule
    assert repr(again) == repr(schedule)


def test_numbers_of_numpy_are_written_as_numbers():
    schedule = FreezeSchedule(
        [
            Phase(
                rates={"low": np.float32(0.5)},
                until=AfterSteps(np.int64(7)) | OnPlateau("loss", np.int32(2), np.float64(0.25)),
                curve=Warmup(np.int64(3)),
            )
        ],
        start=np.int64(2),
    )
    text = yaml_file.dumps(schedule, "plan.yaml")
    assert "numpy" not in text
    assert yaml_file.loads(text, "plan.yaml") == schedule
    json.dumps(schedule.to_dict())


def test_what_means_the_same_is_equal():
    assert Phase(None) == Phase([]) == Phase(())
    assert Phase(["a"]) == Phase(("a",))
    assert Phase(weights=["kernel"]) == Phase(weights=("kernel",))
    assert policies.FreezeGroups("a", [["a"], "b"]) == policies.FreezeGroups("a", (("a",), "b"))
    rates = {"low": 0.5}
    phase = Phase(rates=rates)
    rates["low"] = 2.0
    assert phase.rates == {"low": 0.5}


# Short forms that a person may write.

SHORT = {
    "an int is epochs": ("until: 3", {"until": 3}),
    "a plateau by its log": ("until: {plateau: loss}", {"until": OnPlateau("loss")}),
    "a plateau of all defaults": ("until: {plateau: {}}", {"until": OnPlateau()}),
    "any with ints": ("until: {any: [3, {steps: 9}]}", {"until": AfterEpochs(3) | AfterSteps(9)}),
    "one of any": ("until: {any: [3]}", {"until": AnyOf([3])}),
    "a curve by its name": ("curve: cosine", {"curve": Cosine()}),
    "a curve without settings": ("curve: {slanted_triangular: }", {"curve": SlantedTriangular()}),
    "yes": ("restore_best: yes", {"restore_best": True}),
    "off": ("restore_best: off", {"restore_best": False}),
    "null is the default": ("rates: null\n    until: ~\n    curve:", {}),
    "an exponent without a point": ("rates: {low: 1e-3}", {"rates": {"low": 0.001}}),
    "a plus": ("rates: {low: 1e+1}", {"rates": {"low": 10.0}}),
    "quotes make a name": ("weights: '1e3'", {"weights": "1e3"}),
    "a date is a name": ("weights: 2024-13-45", {"weights": "2024-13-45"}),
    "an anchor that nothing uses": ("weights: &w kernel", {"weights": "kernel"}),
}


def phase_text(body):
    return f"schema: 1\nphases:\n  - frozen: []\n    {body}\n"


@pytest.mark.parametrize("case", SHORT)
def test_short_forms(case):
    body, expected = SHORT[case]
    assert yaml_file.loads(phase_text(body), "plan.yaml").phases == (Phase(**expected),)


FROZEN = {
    "[]": (),
    "low": "low",
    "[low, 'block[12]']": ("low", "block[12]"),
    "-1": -1,
    "{first: 3}": policies.FreezeFirst(3),
    "{not: {matching: head}}": ~policies.FreezeMatching("head"),
    "{not: head}": ~policies.FreezeGroups("head"),
    "{any: [low, {layers: [0]}]}": policies.FreezeGroups("low") | policies.FreezeLayers([0]),
    "{all: [2, {weights: bias}]}": policies.FreezeGroups(2) & policies.FreezeWeights("bias"),
    "{weights: kernel, of: low}": policies.FreezeWeights("kernel", policies.FreezeGroups("low")),
    "{groups: a, grouping: {a: [low]}}": policies.FreezeGroups("a", {"a": ("low",)}),
}


@pytest.mark.parametrize("text", FROZEN)
def test_what_frozen_may_say(text):
    schedule = yaml_file.loads(f"schema: 1\nphases: [frozen: {text}]", "plan.yaml")
    assert schedule.phases == (Phase(FROZEN[text]),)


@pytest.mark.parametrize("change", ["crlf", "bom", "document", "comment", "json"])
def test_files_from_elsewhere(change, tmp_path):
    data = TEXT.encode()
    changed = {
        "crlf": data.replace(b"\n", b"\r\n"),
        "bom": b"\xef\xbb\xbf" + data,
        "document": b"%YAML 1.1\n---\n" + data + b"...\n",
        "comment": b"# one more\n\n" + data,
        "json": json.dumps(SCHEDULE.to_dict(), indent=1).encode(),
    }
    path = tmp_path / "plan.yaml"
    path.write_bytes(changed[change])
    assert FreezeSchedule.from_yaml(path) == SCHEDULE
    if change != "json":  # lines are counted the same
        text = path.read_bytes().replace(b"patience: 2", b"patience: two")
        path.write_bytes(text)
        line = 37 + {"document": 2, "comment": 2}.get(change, 0)
        with pytest.raises(ValueError, match=rf"^plan\.yaml, line {line}, phases\[1\]\.until\.any"):
            FreezeSchedule.from_yaml(path)


# What is wrong: the text, its line, the place and the message.

ERRORS = {
    "empty": ("", None, "the file is empty. It must hold a schedule."),
    "comments only": ("# nothing\n", None, "the file is empty. It must hold a schedule."),
    "not a mapping": (
        "\n- frozen: []",
        "line 2",
        "must be a mapping with some of the keys schema, start, phases. Received: [{'frozen'",
    ),
    "no schema": (
        "phases: [frozen: []]",
        "line 1, schema",
        "must be 1, the form of schedules that this version of keras_freeze reads. Received: None. "
        "Write `schema: 1`, or update keras_freeze.",
    ),
    "another schema": (
        "\nschema: 2\nphases: [frozen: []]",
        "line 2, schema",
        "must be 1, the form of schedules that this version of keras_freeze reads. Received: 2. "
        "Write `schema: 1`, or update keras_freeze.",
    ),
    "a schema that is no number": ("schema: yes", "line 1, schema", "must be 1,"),
    "an unknown key": (
        "schema: 1\nphase: []",
        "line 2, phase",
        "unknown key. Did you mean 'phases'? Known keys: schema, start, phases.",
    ),
    "a bad start": (
        "schema: 1\nstart: 1.5\nphases: [frozen: []]",
        "line 2, start",
        "FreezeSchedule(start=...) must be an int from 0. Received: start=1.5.",
    ),
    "no phases": ("schema: 1", "line 1, phases", "must be a list of at least one phase."),
    "null phases": (
        "schema: 1\nphases:\n",
        "line 2, phases",
        "must be a list of at least one phase. Received: None.",
    ),
    "phases by number": ("schema: 1\nphases: {0: []}", "line 2, phases", "must be a list of"),
    "a null phase": (
        "schema: 1\nphases:\n  - frozen: []\n    until: 1\n  -\n",
        "line 5, phases[1]",
        "must be a mapping with some of the keys frozen, rates, batch_norm, weights, until, "
        "restore_best, curve. Received: None.",
    ),
    "a phase that never ends": (
        "schema: 1\nphases:\n  - frozen: [a]\n\n  - frozen: []",
        "line 3, phases[0].until",
        "phase 0 never ends, so that the next is never reached. Say when, such as "
        "`until: {epochs: 2}`.",
    ),
    "a phase with an end that is null": (
        "schema: 1\nphases:\n  - frozen: [a]\n    until:\n  - frozen: []",
        "line 4, phases[0].until",
        "phase 0 never ends",
    ),
    "a phase that freezes nobody knows what": (
        "schema: 1\nphases:\n  - rates: 2.6",
        "line 3, phases[0].frozen",
        "must say what is frozen. For nothing, write `frozen: []`.",
    ),
    "a list that was commented out": (
        "schema: 1\nphases:\n  - until: 1\n    frozen:\n#    - low",
        "line 4, phases[0].frozen",
        "must say what is frozen.",
    ),
    "a duplicate key": (
        phase_text("rates: 2.6\n    batch_norm: follow\n    rates: 3"),
        "line 6, phases[0].rates",
        "the key stands twice in this place, first in line 4. Remove one of the two.",
    ),
    "a duplicate key far down": (
        phase_text(
            "until:\n      any:\n      - 2\n      - plateau:\n          mode: min\n"
            "          mode: max"
        ),
        "line 9, phases[0].until.any[1].plateau.mode",
        "the key stands twice in this place, first in line 8. Remove one of the two.",
    ),
    "an unknown key of a phase": (
        phase_text("untill: 2"),
        "line 4, phases[0].untill",
        "unknown key. Did you mean 'until'? Known keys: frozen, rates, batch_norm, weights, until, "
        "restore_best, curve.",
    ),
    "an unknown trigger": (
        phase_text("until: {epoch: 2}"),
        "line 4, phases[0].until.epoch",
        "unknown key. Did you mean 'epochs'? Known keys: epochs, steps, plateau, any, all.",
    ),
    "two triggers": (
        phase_text("until: {epochs: 2, steps: 9}"),
        "line 4, phases[0].until",
        "must have exactly one of epochs, steps, plateau, any, all. Received: epochs, steps. "
        "Combine several with any or all.",
    ),
    "no trigger": (phase_text("until: {}"), "line 4, phases[0].until", "must have exactly one of"),
    "a trigger as text": (
        phase_text("until: soon"),
        "line 4, phases[0].until",
        "must be a mapping",
    ),
    "no epochs": (
        phase_text("until: 0"),
        "line 4, phases[0].until",
        "AfterEpochs(epochs=...) must be an int from 1. Received: epochs=0.",
    ),
    "steps as text": (
        phase_text("until:\n      steps: many"),
        "line 5, phases[0].until.steps",
        "AfterSteps(steps=...) must be an int from 1. Received: steps='many'.",
    ),
    "an argument far down": (
        phase_text(
            "until:\n      any:\n      - steps: 5\n      - plateau:\n          mode: max\n"
            "          monitor: quality\n          patience: 0"
        ),
        "line 10, phases[0].until.any[1].plateau.patience",
        "OnPlateau(patience=...) must be an int from 1. Received: patience=0.",
    ),
    "a mode that can't be told": (
        phase_text("until:\n      all:\n      - 3\n      - plateau: {monitor: quality}"),
        "line 7, phases[0].until.all[1].plateau",
        'OnPlateau(mode=...) must be "min" or "max" where the name does not tell which is better. '
        "Received: monitor='quality', mode='auto'.",
    ),
    "an unknown argument far down": (
        phase_text("until: {plateau: {patients: 3}}"),
        "line 4, phases[0].until.plateau.patients",
        "unknown key. Did you mean 'patience'",
    ),
    "an empty any": (
        phase_text("until: {any: []}"),
        "line 4, phases[0].until.any",
        "must be a list of at least one. Received: [].",
    ),
    "any of null": (phase_text("until: {any: [~]}"), "line 4, phases[0].until.any[0]", "must be a"),
    "an unknown curve": (
        phase_text("curve: cosin"),
        "line 4, phases[0].curve.cosin",
        "unknown key. Did you mean 'cosine'? Known keys: warmup, slanted_triangular, cosine.",
    ),
    "a curve without its length": (
        phase_text("curve: warmup"),
        "line 4, phases[0].curve.warmup.steps",
        "must be given.",
    ),
    "a bad curve": (
        phase_text("curve:\n      cosine:\n        floor: 2"),
        "line 6, phases[0].curve.cosine.floor",
        "Cosine(floor=...) must be from 0 and below 1. Received: floor=2.",
    ),
    "a bad rate": (
        phase_text("rates: {low: 0}"),
        "line 4, phases[0].rates",
        'Phase(rates=...) must be "default", None, a positive factor',
    ),
    "rates by number": (
        phase_text("rates: {1: 0.5}"),
        "line 4, phases[0].rates",
        "Phase(rates=...) must have names of layer groups as keys. Received: rates={1: 0.5}. Quote "
        "a name that looks like a number.",
    ),
    "a bad mode": (
        phase_text("batch_norm: no"),
        "line 4, phases[0].batch_norm",
        "Phase(batch_norm=...) must be one of frozen, follow, statistics, train. Received: "
        "batch_norm=False.",
    ),
    "null weights": (phase_text("weights:"), "line 4, phases[0].weights", "Phase(weights=...)"),
    "a best of nobody knows what": (
        phase_text("restore_best: quality"),
        "line 4, phases[0].restore_best",
        "Phase(restore_best=...) must name a log of which the name, or an OnPlateau of the phase, "
        "tells which is better. Received: restore_best='quality'.",
    ),
    "names that YAML reads otherwise": (
        "schema: 1\nphases:\n  - frozen:\n    - low\n    - no\n",
        "line 5, phases[0].frozen[1]",
        "must be the name of a layer group. Received: False. Quote a name that is a number or a "
        "word such as yes or null.",
    ),
    "numbers as names": (
        "schema: 1\nphases:\n  - frozen: [1, 2]",
        "line 3, phases[0].frozen[0]",
        "must be the name of a layer group. Received: 1.",
    ),
    "a part of a group": (
        "schema: 1\nphases:\n  - frozen: 2.5",
        "line 3, phases[0].frozen",
        "Phase(frozen=...) must be an int (layer groups from the input)",
    ),
    "an unknown policy": (
        "schema: 1\nphases:\n  - frozen: {match: low}",
        "line 3, phases[0].frozen.match",
        "unknown key. Did you mean 'matching'?",
    ),
    "two policies": (
        "schema: 1\nphases:\n  - frozen: {first: 2, matching: low}",
        "line 3, phases[0].frozen",
        "must have exactly one of",
    ),
    "a setting of another policy": (
        "schema: 1\nphases:\n  - frozen:\n      first: 2\n      of: low",
        "line 5, phases[0].frozen.of",
        "unknown key. Known keys: first.",
    ),
    "a pattern that is none": (
        "schema: 1\nphases:\n  - frozen: {not: {any: [low, {matching: '('}]}}",
        "line 3, phases[0].frozen.not.any[1].matching",
        "FreezeMatching(pattern=...) must be a valid regular expression.",
    ),
    "a policy of null": (
        "schema: 1\nphases:\n  - frozen: {not: }",
        "line 3, phases[0].frozen.not",
        "FreezeGroups(groups=...) must be an int, a group's name or a sequence of names.",
    ),
    "yes as a key": (phase_text("yes: 2"), "line 4, phases[0].True", "unknown key."),
    "a merge": (phase_text("<<: {until: 2}"), "line 4, phases[0].<<", "unknown key."),
    # YAML
    "an unclosed list": (
        "schema: 1\nphases: [",
        "line 2",
        "this is not YAML: expected the node content, but found '<stream end>'.",
    ),
    "tabs": (
        "schema: 1\nphases:\n\t- frozen: []",
        "line 3",
        "this is not YAML: found character '\\t' that cannot start any token. Indent with spaces.",
    ),
    "aliases": (
        "schema: 1\nphases:\n  - frozen: &f [low]\n    until: 1\n  - frozen: *f",
        "line 5",
        "aliases (*f) are not allowed in a schedule. Write the values out.",
    ),
    "two documents": (
        "schema: 1\n---\nschema: 1\n",
        "line 2",
        "this is not YAML: but found another",
    ),
    "a list as a key": (phase_text("? [a]\n    : 2"), "line 4", "a key must be a word"),
    "no number": (phase_text("until: 0x_"), "line 4", "'0x_' can't be read. Quote it."),
    "a control character": (
        "schema: 1\n# \x00",
        "line 2",
        "this is not YAML: it holds the character '\\x00'.",
    ),
    "deep nesting": (
        "schema: 1\nphases:\n" + "[" * 500,
        "line 3",
        "a schedule must not be nested more than 30 deep.",
    ),
    "deep nesting of what could be meant": (
        phase_text("until: " + "{any: [" * 400 + "1" + "]}" * 400),
        "line 4",
        "a schedule must not be nested more than 30 deep.",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_names_line_and_key(case, tmp_path):
    text, place, message = ERRORS[case]
    path = tmp_path / "plan.yaml"
    path.write_bytes(text.encode())
    where = "plan.yaml" if place is None else f"plan.yaml, {place}"
    with pytest.raises(ValueError, match=f"^{re.escape(f'{where}: {message}')}"):
        kf.FreezeScheduler(path)


def test_plain_data_have_the_same_errors_without_lines():
    data = {
        "schema": 1,
        "phases": [{"frozen": [], "until": {"any": [1, {"plateau": {"mode": 1}}]}}],
    }
    message = r"^phases\[0\]\.until\.any\[1\]\.plateau\.mode: OnPlateau\(mode=\.\.\.\) must be"
    with pytest.raises(ValueError, match=message):
        FreezeSchedule.from_dict(data)
    with pytest.raises(ValueError, match=r"^schedule: must be a mapping"):
        FreezeSchedule.from_dict([])


TAGS = {
    "python, scalar": "!!python/object/apply:os.system 'echo'",
    "python, list": "!!python/object/apply:os.system ['echo']",
    "python, mapping": "!!python/object/new:subprocess.Popen {args: echo}",
    "python name": "!!python/name:os.system x",
    "set": "!!set {a, b}",
    "binary": "!!binary aGk=",
    "own": "!mine [a]",
    "int": "!!int '3'",
}


@pytest.mark.parametrize("case", TAGS)
@pytest.mark.parametrize("place", ["frozen", "until", "key"])
def test_tags_are_refused_and_nothing_runs(case, place, monkeypatch):
    for name in ("system", "popen"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("code ran"))
    text = {
        "frozen": f"schema: 1\nphases:\n  - frozen: {TAGS[case]}",
        "until": phase_text(f"until: {{any: [{TAGS[case]}]}}"),
        "key": phase_text(f"? {TAGS[case]}\n    : 1"),
    }[place]
    line = 3 if place == "frozen" else 4
    with pytest.raises(ValueError, match=rf"^plan\.yaml, line {line}: tags \(.*\) are not allowed"):
        yaml_file.loads(text, "plan.yaml")


def test_a_file_must_be_text_in_utf_8(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_bytes(b"schema: 1\n# gr\xf6\xdfe\n")
    with pytest.raises(ValueError, match=r"^plan\.yaml, line 2: a schedule must be text in UTF-8"):
        FreezeSchedule.from_yaml(path)
    path.write_bytes(bytes(range(256)) * 9)
    with pytest.raises(ValueError, match=r"^plan\.yaml, line 2: a schedule must be text in UTF-8"):
        FreezeSchedule.from_yaml(path)
    path.write_bytes(TEXT.encode("utf-16"))
    with pytest.raises(ValueError, match=r"^plan\.yaml, line 1: a schedule must be text in UTF-8"):
        FreezeSchedule.from_yaml(path)


def test_a_file_must_not_be_large(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_bytes(b"#" * 2_000_000)
    message = (
        "plan.yaml: a schedule must not be longer than 1,000,000 bytes. Received: 2,000,000 bytes."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        FreezeSchedule.from_yaml(path)


@pytest.mark.parametrize("name", ["plan.yaml", "."])
def test_there_must_be_a_file(name, tmp_path):
    message = (
        r"FreezeSchedule\.from_yaml\(path=\.\.\.\) must name a file\. Received: path='.*to_yaml"
    )
    with pytest.raises(FileNotFoundError, match=message):
        kf.FreezeScheduler(tmp_path / name)


def test_the_depth_that_is_allowed_can_be_read():
    depth = marked_yaml.MAX_DEPTH // 2 - 3
    trigger = (
        yaml_file.loads(phase_text("until: " + "{any: [" * depth + "1" + "]}" * depth), "plan.yaml")
        .phases[0]
        .trigger
    )
    assert trigger.length(1) == 1


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
        "line 4, phases[0].frozen: FreezeScheduler(schedule=...) must leave something to train. "
        "Received: the phase at epoch 0, which freezes all of model 'plain'. Leave out a group "
        "of: low, middle, head.",
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
    fitted(plain(), data_for, path, total_epochs=4)


def test_a_file_is_read_anew_for_each_fit(plain, data_for, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("schema: 1\nphases: [frozen: 2]")
    callback, model = kf.FreezeScheduler(path, verbose=0), plain()
    model.compile("sgd", "sparse_categorical_crossentropy")
    for frozen, trained in ((2, 18), (1, 53)):
        path.write_text(f"schema: 1\nphases: [frozen: {frozen}]")
        history = model.fit(*data_for(model), verbose=0, callbacks=[callback])
        assert history.history["trainable_params"] == [trained]
