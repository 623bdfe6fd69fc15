"""Schedules as YAML files that people read and edit. Errors name line and key.

Of YAML a file may contain mappings, lists and plain values: no tags, no aliases, no deep
nesting. Nothing runs from it, and nothing expands.
"""

from __future__ import annotations

import functools
import pathlib
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from keras_freeze.schedules.as_dict import Schedule, from_dict, to_dict
from keras_freeze.schedules.locations import Misplaced, Path, place_in_file
from keras_freeze.schedules.phase import Phase, PhaseSequence
from keras_freeze.schedules.progress import timeline

#: More than any schedule needs: a file beyond either is something else.
MAX_BYTES, MAX_DEPTH = 1_000_000, 30

Lines = dict[Path, int]

_HEADER = """\
# A schedule of keras_freeze: which layer groups are frozen in which phase of training.
# Everything that is not named as frozen trains. Edit it, then run it:
#     model.fit(..., callbacks=[keras_freeze.FreezeScheduler("{name}")])
#
# Keys of a phase:
#   frozen        names or patterns of layer groups, such as [block1, "block[23]"], or a number
#                 of groups from the input; or one of first, before, layers, matching
#   weights       only these variables of what is frozen: kernel, bias, ...
#   until         what ends it: {{epochs: 2}}, {{steps: 500}}, {{plateau: {{monitor: val_loss}}}},
#                 or {{any: [...]}} and {{all: [...]}} of these
#   rates         learning rate by group, as multiples of the compiled one, or a factor
#   batch_norm    frozen, follow, statistics or train
#   restore_best  true: restore the weights of the phase's best epoch when it ends
#   curve         warmup, slanted_triangular or cosine, over the steps of the phase
"""


def write(schedule: PhaseSequence, path: pathlib.Path, overwrite: bool) -> None:
    """Write a schedule; see `FreezeSchedule.to_yaml`."""
    text = dumps(schedule, path.name)
    try:
        with path.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise FileExistsError(
            "FreezeSchedule.to_yaml(path=...) must not name a file that exists. Received: "
            f"path={str(path)!r}. Pass overwrite=True to replace it."
        ) from error


def dumps(schedule: PhaseSequence, name: str) -> str:
    """Return the text of a schedule's file."""
    data = to_dict(schedule)
    lines = [_HEADER.format(name=_printable(name))]
    if schedule.groups:
        lines.append("#\n# Layer groups of the model it was written for, from input to head:\n")
        counts = {_printable(group): count for group, count in schedule.groups}
        width = max(map(len, counts))
        lines += [f"#   {group:{width}}  {n:>12,} parameters\n" for group, n in counts.items()]
    lines.append(f"\nschema: {data['schema']}\n")
    if "start" in data:
        lines.append(f"start: {data['start']}  # before this epoch the flags stay as they are\n")
    lines.append("phases:\n")
    moments = timeline(schedule, None)
    for index, phase in enumerate(schedule.phases):
        moment = moments[index]
        when = "" if moment is None else f", from epoch {moment.epoch + 1}"
        comment = f"phase {index}{when}{_what_trains(phase, schedule.groups)}"
        wrapped = textwrap.wrap(comment, 94, break_on_hyphens=False)
        entry = _dump([data["phases"][index]]).rstrip("\n").split("\n")
        lines += ["\n", *(f"  # {line}\n" for line in wrapped), *(f"  {line}\n" for line in entry)]
    return "".join(lines)


def _what_trains(phase: Phase, groups: Sequence[tuple[str, int]]) -> str:
    """Return the groups that train in a phase for its comment, where that is certain."""
    if not isinstance(phase.frozen, tuple) or phase.weights != "all":
        return ""
    frozen, known = set(phase.frozen), dict(groups)
    names = [_printable(name) for name in reversed(known) if name not in frozen]
    if not names or not frozen <= known.keys():  # a pattern, or an earlier name
        return ""
    return f": {', '.join(names)} {'trains' if len(names) == 1 else 'train'}"


def _printable(name: str) -> str:
    """Return a name as it may stand in a comment, which a line break would end."""
    return name if name.isprintable() else ascii(name)


def read(path: pathlib.Path, make: Callable[..., Schedule]) -> Schedule:
    """Read a schedule; see `FreezeSchedule.from_yaml`."""
    if not path.is_file():
        raise FileNotFoundError(
            f"FreezeSchedule.from_yaml(path=...) must name a file. Received: path={str(path)!r}. "
            "Write one with `keras_freeze.schedules.gradual(model).to_yaml(path)`."
        )
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(
            f"{path.name}: a schedule must not be longer than {MAX_BYTES:,} bytes. "
            f"Received: {path.stat().st_size:,} bytes."
        )
    data = path.read_bytes()
    try:
        return loads(data.decode("utf-8"), path.name, make)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path.name}, line {line}: a schedule must be text in UTF-8. "
            f"Received: byte {data[error.start]:#x}."
        ) from error


def loads(text: str, name: str, make: Callable[..., Schedule]) -> Schedule:
    """Return the schedule that a file's text describes.

    Args:
        text: Str.
        name: Str, the file's name, for messages.
        make: The class of the schedule.

    Raises:
        ValueError: if it describes none; the message names line and key.
    """
    data, lines = _load(text, name)
    try:
        return from_dict(data, make, name, lines)
    except Misplaced as error:
        known = error.path
        while known not in lines:
            known = known[:-1]
        place = place_in_file(name, lines[known], error.path)
        raise Misplaced(error.path, error.problem, place) from error


def _load(text: str, name: str) -> tuple[Any, Lines]:
    """Return the data in a text, and the line of each place in them; raise for anything else."""
    import yaml

    loader, _ = _dialect()
    lines: Lines = {}
    try:
        _check_events(yaml.parse(text, Loader=loader), name)
        node = yaml.compose(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}, {_problem(error, text)}") from error
    if node is None:
        raise ValueError(f"{name}: the file is empty. It must contain a schedule.")
    return _construct(node, (), lines, name), lines


def _dump(data: Any) -> str:
    import yaml

    _, dumper = _dialect()
    settings: dict[str, Any] = {"sort_keys": False, "default_flow_style": None, "width": 88}
    return str(yaml.dump(data, Dumper=dumper, allow_unicode=True, **settings))


@functools.cache
def _dialect() -> tuple[Any, Any]:
    """Return a loader and a dumper that agree on what is a number, a truth value, or text."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    class Dumper(yaml.SafeDumper):
        pass

    plain = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float")}
    number = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z")
    for kind in (Loader, Dumper):
        kind.yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in known if tag in plain]
            for first, known in kind.yaml_implicit_resolvers.items()
        }
        # 1e-3 is text for YAML 1.1, as it has no decimal point.
        kind.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    Dumper.add_representer(str, _text)
    return Loader, Dumper


def _text(dumper: Any, text: str) -> Any:
    """Escape what can't be seen, rather than break lines at it."""
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _check_events(events: Any, name: str) -> None:
    """Raise for what is more than plain data, before anything is made of it."""
    import yaml

    depth = 0
    for event in events:
        place = f"{name}, line {event.start_mark.line + 1}"
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(
                f"{place}: aliases (*{event.anchor}) are not allowed in a schedule. Write the "
                "values out."
            )
        if getattr(event, "tag", None) not in (None, "!"):
            raise ValueError(
                f"{place}: tags ({event.tag}) are not allowed in a schedule. Leave it out, or "
                "quote the value."
            )
        if depth > MAX_DEPTH:
            raise ValueError(f"{place}: a schedule must not be nested more than {MAX_DEPTH} deep.")


def _problem(error: Any, text: str) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None:  # a character that YAML forbids
        line = text.count("\n", 0, error.position) + 1
        return f"line {line}: this is not YAML: it contains the character {chr(error.character)!a}."
    advice = " Indent with spaces." if "\\t" in str(problem) else ""
    return f"line {mark.line + 1}: this is not YAML: {problem}.{advice}"


def _construct(node: Any, place: Path, lines: Lines, name: str) -> Any:
    import yaml

    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(n, (*place, i), lines, name) for i, n in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node, name)
    data: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key, line = _key(key_node, name), key_node.start_mark.line + 1
        if key in data:
            here: Path = (*place, key)
            raise Misplaced(
                here,
                f"the key appears twice in this place, first in line {lines[here]}. Remove one "
                "of the two.",
                place_in_file(name, line, here),
            )
        lines[*place, key] = line
        data[key] = _construct(value_node, (*place, key), lines, name)
    return data


def _key(node: Any, name: str) -> Any:
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, name)
    line = node.start_mark.line + 1
    raise ValueError(f"{name}, line {line}: a key must be a word, not a list or mapping.")


def _scalar(node: Any, name: str) -> Any:
    loader, _ = _dialect()
    try:
        return loader("").construct_object(node)
    except ValueError as error:
        line = node.start_mark.line + 1
        raise ValueError(f"{name}, line {line}: {node.value!r} can't be read. Quote it.") from error
