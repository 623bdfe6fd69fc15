"""Schedules as YAML files that people read and edit. Errors name line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_freeze.schedules.phases import FreezeSchedule
from keras_freeze.schedules.serialization import Misplaced, from_dict, to_dict

#: More than any schedule needs: a file beyond it is something else.
MAX_BYTES = 1_000_000

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
#   restore_best  true: go back to the best epoch of the phase when it ends
#   curve         warmup, slanted_triangular or cosine, over the steps of the phase
"""


def write(schedule: FreezeSchedule, path: Path, overwrite: bool) -> None:
    """Write a schedule; see `FreezeSchedule.to_yaml`."""
    text = dumps(schedule, path.name)
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"FreezeSchedule.to_yaml(path=...) must not name a file that is there. Received: "
            f"path={str(path)!r}. Pass overwrite=True to replace it."
        )
    path.write_text(text, encoding="utf-8")


def dumps(schedule: FreezeSchedule, name: str) -> str:
    """Return the text of a schedule's file."""
    import yaml

    data = to_dict(schedule)
    lines = [_HEADER.format(name=name)]
    if schedule.groups:
        lines.append("# Layer groups of the model that it was written for, from input to head:\n")
        width = max(len(group) for group, _ in schedule.groups)
        lines += [f"#   {group:{width}}  {n:>12,} parameters\n" for group, n in schedule.groups]
    lines.append(f"\nschema: {data['schema']}\n")
    if "start" in data:
        lines.append(f"start: {data['start']}  # before this epoch the flags stay as they are\n")
    lines.append("phases:\n")
    starts = schedule.starts()
    for index, phase in enumerate(data["phases"]):
        lines.append(_comment(schedule, index, starts[index]))
        text = yaml.safe_dump([phase], sort_keys=False, default_flow_style=None, width=92)
        lines += [f"  {line}\n" for line in text.splitlines()]
    return "".join(lines)


def _comment(schedule: FreezeSchedule, index: int, start: int | None) -> str:
    frozen = schedule.phases[index].frozen
    training: list[str] = []
    if isinstance(frozen, tuple):
        training = [name for name, _ in schedule.groups if name not in frozen]
    verb = "trains" if len(training) == 1 else "train"
    what = f": {', '.join(reversed(training))} {verb}" if training else ""
    when = f", from epoch {start + 1}" if start is not None else ""
    return f"\n  # phase {index}{when}{what}\n"


def read(path: Path) -> FreezeSchedule:
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
    return loads(path.read_text(encoding="utf-8"), path.name)


def loads(text: str, name: str) -> FreezeSchedule:
    """Return the schedule that a file's text describes.

    Raises:
        ValueError: if it is none; the message names line and key.
    """
    lines: dict[tuple[str | int, ...], int] = {}
    try:
        data = _construct(_compose(text, name), (), lines, name)
        return from_dict(data, name, lines)
    except Misplaced as error:
        place, keys = error.path, [str(key) for key in error.path if isinstance(key, str)]
        while place and place not in lines:
            place = place[:-1]
        key = f", {keys[-1]}" if len(keys) > 1 or keys[-1:] in (["schema"], ["start"]) else ""
        raise ValueError(f"{name}, line {lines.get(place, 1)}{key}: {error.text}") from error


def _compose(text: str, name: str) -> Any:
    import yaml

    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ValueError(
                    f"{name}, line {line}: aliases (*{event.anchor}) are not allowed in a "
                    "schedule. Write the values out."
                )
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ValueError(f"{name}{place}: this is not YAML: {problem}.") from error
    except RecursionError as error:
        raise ValueError(f"{name}: a schedule must not be nested so deeply.") from error
    if node is None:
        raise ValueError(f"{name}: the file is empty. It must hold a schedule.")
    return node


def _construct(node: Any, place: tuple[Any, ...], lines: dict[Any, int], name: str) -> Any:
    import yaml

    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(n, (*place, i), lines, name) for i, n in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node, name)
    data: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = _scalar(key_node, name) if isinstance(key_node, yaml.ScalarNode) else "?"
        line = key_node.start_mark.line + 1
        if key in data:
            first = lines[(*place, key)]
            raise ValueError(
                f"{name}, line {line}, {key}: the key stands twice in this place, first in line "
                f"{first}. Remove one of the two."
            )
        lines[(*place, key)] = line
        data[key] = _construct(value_node, (*place, key), lines, name)
    return data


def _scalar(node: Any, name: str) -> Any:
    import yaml

    if not node.tag.startswith("tag:yaml.org,2002:"):
        line = node.start_mark.line + 1
        raise ValueError(f"{name}, line {line}: the tag {node.tag} is not allowed in a schedule.")
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        line = node.start_mark.line + 1
        raise ValueError(f"{name}, line {line}: {node.value!r} can't be read.") from error
    if isinstance(value, str) and node.style is None:
        try:  # YAML takes 1e-3 for text, as it has no decimal point
            return float(value) if value[:1].isdigit() else value
        except ValueError:
            return value
    return value
