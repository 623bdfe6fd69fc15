"""YAML as plain data, with the line of each place in it. Nothing runs, and nothing expands.

Of YAML it takes mappings, lists and plain values: no tags, no aliases, no deep nesting.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from keras_freeze.schedules.as_dict import Path, written

#: More than any schedule needs.
MAX_DEPTH = 30

Lines = dict[Path, int]


def load(text: str, name: str) -> tuple[Any, Lines]:
    """Return the data that a text holds, and the line of each place in them.

    Args:
        text: The text.
        name: Str, the file's name, for messages.

    Raises:
        ValueError: if it is not YAML, or more than plain data; the message names line and key.
    """
    import yaml

    loader, _ = _dialect()
    lines: Lines = {}
    try:
        _check_events(yaml.parse(text, Loader=loader), name)
        node = yaml.compose(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}, {_problem(error, text)}") from error
    if node is None:
        raise ValueError(f"{name}: the file is empty. It must hold a schedule.")
    return _construct(node, (), lines, name), lines


def dump(data: Any) -> str:
    """Return plain data as YAML."""
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
        return f"line {line}: this is not YAML: it holds the character {chr(error.character)!a}."
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
            raise ValueError(
                f"{name}, line {line}, {written((*place, key))}: the key stands twice in this "
                f"place, first in line {lines[*place, key]}. Remove one of the two."
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
