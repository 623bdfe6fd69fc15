"""Schedules as plain data and back: dicts, lists, strings and numbers, as in YAML or JSON.

Policies are written by the words of `freeze(...)`, triggers and curves by their own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from keras_freeze import policies
from keras_freeze.checks import ArgumentError, ArgumentTypeError, did_you_mean, is_int, is_number
from keras_freeze.policies import FreezePolicy
from keras_freeze.schedules import curves, triggers
from keras_freeze.schedules.locations import Misplaced, Path, Source
from keras_freeze.schedules.phase import Phase, PhaseSequence

SCHEMA = 1

Schedule = TypeVar("Schedule")
#: The placeholder for a callable or a custom object in plain data.
Naming = Callable[[Any], Any]

_CURVES = {
    "warmup": curves.Warmup,
    "slanted_triangular": curves.SlantedTriangular,
    "cosine": curves.Cosine,
    "annealing": curves.Annealing,
}
#: A policy's or trigger's word, its class, and the argument that the word's value gives.
_POLICIES: dict[str, tuple[Any, str]] = {
    "first": (policies.FreezeFirst, "count"),
    "groups": (policies.FreezeGroups, "groups"),
    "before": (policies.FreezeBefore, "cut"),
    "layers": (policies.FreezeLayers, "layers"),
    "matching": (policies.FreezeMatching, "pattern"),
    "weights": (policies.FreezeWeights, "names"),
}
_TRIGGERS: dict[str, tuple[Any, str]] = {
    "epochs": (triggers.AfterEpochs, "epochs"),
    "steps": (triggers.AfterSteps, "steps"),
}
_COMBINED = {"any": triggers.AnyOf, "all": triggers.AllOf}
_PHASE = tuple(f.name for f in dataclasses.fields(Phase) if f.compare)


def to_dict(schedule: PhaseSequence) -> dict[str, Any]:
    """Return a schedule as plain data; raise a `TypeError` for what a file can't hold."""
    return _schedule(schedule, _refuse)


def fingerprint(schedule: PhaseSequence) -> dict[str, Any]:
    """Return a schedule as plain data, with the names of callables in their place."""
    return _schedule(schedule, _name_of)


def _schedule(schedule: PhaseSequence, name: Naming) -> dict[str, Any]:
    data: dict[str, Any] = {"schema": SCHEMA}
    if schedule.start:
        data["start"] = int(schedule.start)
    return {**data, "phases": [_phase(phase, name) for phase in schedule.phases]}


def _phase(phase: Phase, name: Naming) -> dict[str, Any]:
    data: dict[str, Any] = {"frozen": _frozen(phase.frozen, name)}
    for key in _PHASE:
        value = getattr(phase, key)
        if key != "frozen" and value != getattr(Phase, key):
            data[key] = _value(value, name)
    return data


def _value(value: Any, name: Naming) -> Any:
    if isinstance(value, triggers.Trigger):
        return _trigger(value, name)
    if isinstance(value, curves.Curve):
        for word, kind in _CURVES.items():
            if type(value) is kind:
                return {word: _changed(value)}
        return name(value)
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if is_number(value):  # of numpy too
        return int(value) if is_int(value) else float(value)
    return value


def _changed(value: Any) -> dict[str, Any]:
    changed = {}
    for field in dataclasses.fields(value):
        argument = getattr(value, field.name)
        if argument != field.default:
            changed[field.name] = _plain(argument)
    return changed


def _trigger(trigger: triggers.Trigger, name: Naming) -> Any:
    for word, (kind, argument) in _TRIGGERS.items():
        if type(trigger) is kind:
            return {word: _plain(getattr(trigger, argument))}
    for word, combined in _COMBINED.items():
        if type(trigger) is combined:
            return {word: [_trigger(part, name) for part in trigger.triggers]}
    if type(trigger) is triggers.OnPlateau:
        return {"plateau": {"monitor": trigger.monitor, **_changed(trigger)}}
    return name(trigger.condition if type(trigger) is triggers.When else trigger)


def _frozen(frozen: Any, name: Naming) -> Any:
    if isinstance(frozen, FreezePolicy):
        return _policy(frozen, name)
    return name(frozen) if callable(frozen) else _plain(frozen)


def _policy(policy: FreezePolicy, name: Naming) -> Any:
    combined = policies.parts_of(policy)
    if combined is not None:
        word, parts = combined
        data = [_policy(part, name) for part in parts]
        return {word: data[0] if word == "not" else data}
    for word, (kind, argument) in _POLICIES.items():
        if type(policy) is kind:
            entry = {word: _plain(getattr(policy, argument))}
            for field in dataclasses.fields(policy):  # type: ignore[arg-type]  # all of them are
                value = getattr(policy, field.name)
                if field.name != argument and value is not None:
                    entry[field.name] = _frozen(value, name)
            return entry
    return name(policy.predicate if isinstance(policy, policies.FreezeWhere) else policy)


def _refuse(value: Any) -> Any:
    if isinstance(value, FreezePolicy) and value.decides_late:
        raise TypeError(
            f"A schedule in a file can't hold a policy that decides by data. Received: {value!r}. "
            "Keep the schedule in Python, or write down the names of the groups that "
            "keras_freeze.rank_groups gives."
        )
    raise TypeError(
        "A schedule in a file must have policies, triggers and curves of keras_freeze only. "
        f"Received: {value!r}. Use a name, a pattern or a trigger of keras_freeze, or keep the "
        "schedule in Python."
    )


def _name_of(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        arguments = []
        for field in dataclasses.fields(value):
            if not field.repr:  # large, or not the same in the next process
                continue
            argument = getattr(value, field.name)
            text = _name_of(argument) if callable(argument) else repr(argument)
            arguments.append(f"{field.name}={text}")
        return f"{type(value).__name__}({', '.join(arguments)})"
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"<{kind.__module__}.{kind.__qualname__}>"


def from_dict(
    data: Any,
    make: Callable[..., Schedule],
    file: str | None = None,
    lines: Mapping[Path, int] | None = None,
) -> Schedule:
    """Return the schedule that plain data describe.

    Args:
        data: What `to_dict` returned, or a file contains.
        make: The class of the schedule, called with `phases` and `start`.
        file: Str, the name of the file that the data come from. Defaults to none.
        lines: Line of that file by place in the data. Defaults to none.

    Raises:
        Misplaced: if something is wrong, with the place where it is.
    """
    _check_keys(data, ("schema", "start", "phases"), ())
    schema = data.get("schema", SCHEMA)
    if not is_int(schema) or schema != SCHEMA:
        raise Misplaced(
            ("schema",),
            f"must be {SCHEMA}, the form of schedules that this version of keras_freeze reads. "
            f"Received: {schema!r}. Leave it out, or update keras_freeze.",
        )
    entries = data.get("phases")
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        text = f"must be a list of at least one phase. Received: {entries!r}."
        raise Misplaced(("phases",), text)
    phases = []
    for index, entry in enumerate(entries):
        here: Path = ("phases", index)
        phase = _read_phase(entry, here)
        if file is not None and lines is not None:
            own = {key: lines[*here, key] for key in entry}
            source = Source(file, here, {"": lines[here], **own})
            phase = dataclasses.replace(phase, source=source)
        if index < len(entries) - 1 and phase.until is None:
            raise Misplaced(
                (*here, "until"),
                f"phase {index} never ends, so that the next is never reached. Give its end, "
                "such as `until: {epochs: 2}`.",
            )
        phases.append(phase)
    return _made((), make, phases=phases, start=data.get("start", 0))


def _read_phase(entry: Any, here: Path) -> Phase:
    _check_keys(entry, _PHASE, here)
    if entry.get("frozen") is None:
        raise Misplaced(
            (*here, "frozen"), "must say what is frozen. For nothing, write `frozen: []`."
        )
    settings = dict(entry)
    settings["frozen"] = _read_frozen(entry["frozen"], (*here, "frozen"))
    if entry.get("until") is not None:
        settings["until"] = _read_trigger(entry["until"], (*here, "until"))
    if entry.get("curve") is not None:
        settings["curve"] = _read_curve(entry["curve"], (*here, "curve"))
    return _made(here, Phase, **settings)


def _read_frozen(entry: Any, here: Path) -> Any:
    if isinstance(entry, Mapping):
        return _read_policy(entry, here)
    for index, name in enumerate(entry if isinstance(entry, (list, tuple)) else ()):
        if not isinstance(name, str):
            raise Misplaced(
                (*here, index),
                f"must be the name of a layer group. Received: {name!r}. Quote a name that is a "
                "number or a word such as yes or null.",
            )
    return entry


def _read_policy(entry: Any, here: Path) -> FreezePolicy:
    words = ("any", "all", "not", *_POLICIES)
    if not isinstance(entry, Mapping):
        return _made(here, policies.FreezeGroups, entry)
    _check_keys(entry, (*words, "grouping", "of"), here)
    word = _single(entry, words, here)
    inside: Path = (*here, word)
    if word == "not":
        return ~_read_policy(entry[word], inside)
    if word in ("any", "all"):
        return policies.combined(word, _read_each(_read_policy, entry[word], inside))
    kind, argument = _POLICIES[word]
    also = [field.name for field in dataclasses.fields(kind) if field.name != argument]
    _check_keys(entry, (word, *also), here)
    settings = {argument: entry[word], **{name: entry[name] for name in also if name in entry}}
    if settings.get("of") is not None:
        settings["of"] = _read_policy(settings["of"], (*here, "of"))
    return _made(inside, functools.partial(kind, **settings))


def _read_trigger(entry: Any, here: Path) -> triggers.Trigger:
    if is_int(entry):
        return _made(here, triggers.AfterEpochs, entry)
    words = (*_TRIGGERS, "plateau", *_COMBINED)
    _check_keys(entry, words, here)
    word = _single(entry, words, here)
    value, inside = entry[word], (*here, word)
    if word in _COMBINED:
        return _made(inside, _COMBINED[word], _read_each(_read_trigger, value, inside))
    if word == "plateau":
        settings = {"monitor": value} if isinstance(value, str) else value
        return _from_fields(triggers.OnPlateau, settings, inside)
    return _made(inside, _TRIGGERS[word][0], value)


def _read_curve(entry: Any, here: Path) -> curves.Curve:
    entry = {entry: None} if isinstance(entry, str) else entry
    _check_keys(entry, tuple(_CURVES), here)
    word = _single(entry, tuple(_CURVES), here)
    return _from_fields(_CURVES[word], entry[word] or {}, (*here, word))


def _from_fields(kind: Any, settings: Any, here: Path) -> Any:
    names = tuple(field.name for field in dataclasses.fields(kind))
    _check_keys(settings, names, here)
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.name not in settings:
            raise Misplaced((*here, field.name), "must be given.")
    return _made(here, kind, **settings)


def _made(here: Path, make: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    try:
        return make(*arguments, **settings)
    except (ArgumentError, ArgumentTypeError) as error:
        inside = (error.argument,) if error.argument in settings else ()
        raise Misplaced((*here, *inside), str(error)) from error
    except (TypeError, ValueError) as error:
        raise Misplaced(here, str(error)) from error


def _check_keys(entry: Any, known: Sequence[str], here: Path) -> None:
    if not isinstance(entry, Mapping):
        raise Misplaced(
            here,
            f"must be a mapping with some of the keys {', '.join(known)}. Received: {entry!r}.",
        )
    for key in entry:
        if key not in known:
            raise Misplaced(
                (*here, key),
                f"unknown key. {did_you_mean(str(key), known)}Known keys: {', '.join(known)}.",
            )


def _single(entry: Mapping[str, Any], words: Sequence[str], here: Path) -> str:
    found = [word for word in words if word in entry]
    if len(found) != 1:
        raise Misplaced(
            here,
            f"must have exactly one of {', '.join(words)}. "
            f"Received: {', '.join(found) or 'none of them'}. Combine several with any or all.",
        )
    return found[0]


def _read_each(read: Callable[[Any, Path], Any], value: Any, here: Path) -> list[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise Misplaced(here, f"must be a list of at least one. Received: {value!r}.")
    return [read(part, (*here, n)) for n, part in enumerate(value)]
