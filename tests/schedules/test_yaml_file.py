"""Schedules as files: what is written comes back, and every mistake is named by line and key."""

import json
import os
import re

import pytest
from any_schedule import SCHEDULES
from hypothesis import given

import keras_freeze as kf
from keras_freeze import policies, schedules
from keras_freeze.schedules import (
    AfterEpochs,
    AfterSteps,
    AnyOf,
    Cosine,
    FreezeSchedule,
    OnPlateau,
    Phase,
    SlantedTriangular,
    Warmup,
    yaml_file,
)


def loads(text):
    return yaml_file.loads(text, "plan.yaml", FreezeSchedule)


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
#   restore_best  true: restore the weights of the phase's best epoch when it ends
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


def test_a_builders_file_serves_as_it_is_and_edited(plain, tmp_path):
    path = tmp_path / "plan.yaml"
    schedules.gradual(plain()).to_yaml(path)
    assert trainable_params(plain(), path) == [18, 53, 83]
    path.write_text(path.read_text().replace("frozen: [low, middle]", 'frozen: ["m.*|head"]'))
    assert trainable_params(plain(), path) == [30, 53, 83]


def trainable_params(model, path):
    preview = kf.FreezeScheduler(path).preview(model, epochs=3)
    return [row.trainable_params for row in preview.rows]


def test_no_file_is_overwritten_unasked(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("mine")
    message = r"FreezeSchedule\.to_yaml\(path=\.\.\.\) must not name a file that exists.*plan\.yaml"
    with pytest.raises(FileExistsError, match=message + r".*overwrite=True"):
        SCHEDULE.to_yaml(path)
    assert path.read_text() == "mine"
    SCHEDULE.to_yaml(path, overwrite=True)
    assert FreezeSchedule.from_yaml(path) == SCHEDULE


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


@given(SCHEDULES)
def test_any_schedule_comes_back_from_its_file(schedule):
    text = yaml_file.dumps(schedule, "plan.yaml")
    again = loads(text)
    assert again == schedule
    assert repr(again) == repr(schedule)


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
    assert loads(phase_text(body)).phases == (Phase(**expected),)


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
    schedule = loads(f"schema: 1\nphases: [frozen: {text}]")
    assert schedule.phases == (Phase(FROZEN[text]),)


@pytest.mark.parametrize("change", ["crlf", "bom", "document", "comment", "json", "plain"])
def test_files_from_elsewhere(change, tmp_path):
    data = TEXT.encode()
    changed = {
        "crlf": data.replace(b"\n", b"\r\n"),
        "bom": b"\xef\xbb\xbf" + data,
        "document": b"%YAML 1.1\n---\n" + data + b"...\n",
        "comment": b"# one more\n\n" + data,
        "plain": data.replace(b"schema: 1", b""),
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
    "empty": ("", None, "the file is empty. It must contain a schedule."),
    "comments only": ("# nothing\n", None, "the file is empty. It must contain a schedule."),
    "not a mapping": (
        "\n- frozen: []",
        "line 2",
        "must be a mapping with some of the keys schema, start, phases. Received: [{'frozen'",
    ),
    "an empty schema": ("schema:\nphases: [frozen: []]", "line 1, schema", "must be 1,"),
    "another schema": (
        "\nschema: 2\nphases: [frozen: []]",
        "line 2, schema",
        "must be 1, the form of schedules that this version of keras_freeze reads. Received: 2. "
        "Leave it out, or update keras_freeze.",
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
        "FreezeSchedule(start=...) must be a non-negative integer. Received: start=1.5.",
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
        "phase 0 never ends, so that the next is never reached. Give its end, such "
        "as `until: {epochs: 2}`.",
    ),
    "a phase with an end that is null": (
        "schema: 1\nphases:\n  - frozen: [a]\n    until:\n  - frozen: []",
        "line 4, phases[0].until",
        "phase 0 never ends",
    ),
    "a phase that does not say what is frozen": (
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
        "the key appears twice in this place, first in line 4. Remove one of the two.",
    ),
    "a duplicate key far down": (
        phase_text(
            "until:\n      any:\n      - 2\n      - plateau:\n          mode: min\n"
            "          mode: max"
        ),
        "line 9, phases[0].until.any[1].plateau.mode",
        "the key appears twice in this place, first in line 8. Remove one of the two.",
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
        "AfterEpochs(epochs=...) must be a positive integer. Received: epochs=0.",
    ),
    "steps as text": (
        phase_text("until:\n      steps: many"),
        "line 5, phases[0].until.steps",
        "AfterSteps(steps=...) must be a positive integer. Received: steps='many'.",
    ),
    "an argument far down": (
        phase_text(
            "until:\n      any:\n      - steps: 5\n      - plateau:\n          mode: max\n"
            "          monitor: quality\n          patience: 0"
        ),
        "line 10, phases[0].until.any[1].plateau.patience",
        "OnPlateau(patience=...) must be a positive integer. Received: patience=0.",
    ),
    "a mode that the name does not show": (
        phase_text("until:\n      all:\n      - 3\n      - plateau: {monitor: quality}"),
        "line 7, phases[0].until.all[1].plateau",
        'OnPlateau(mode=...) must be "min" or "max" where the name does not show which is better. '
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
        "unknown key. Did you mean 'cosine'? "
        "Known keys: warmup, slanted_triangular, cosine, annealing.",
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
        'Phase(rates=...) must be "default", "auto", None, a positive factor',
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
    "a best by an unknown metric": (
        phase_text("restore_best: quality"),
        "line 4, phases[0].restore_best",
        "Phase(restore_best=...) must name a metric whose name, or an OnPlateau of the phase, "
        "shows which value is better. Received: restore_best='quality'.",
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
        "this is not YAML: it contains the character '\\x00'.",
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
        FreezeSchedule.from_yaml(path)


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
        loads(text)


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
    depth = yaml_file.MAX_DEPTH // 2 - 3
    text = phase_text("until: " + "{any: [" * depth + "1" + "]}" * depth)
    assert loads(text).phases[0].trigger.length(1) == 1
