"""Schedules as YAML files that people read and edit. Errors name line and key."""

from __future__ import annotations

import textwrap
from pathlib import Path

from keras_freeze.schedules.as_dict import Misplaced, from_dict, to_dict, written
from keras_freeze.schedules.marked_yaml import dump, load
from keras_freeze.schedules.phases import FreezeSchedule

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
    try:
        with path.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise FileExistsError(
            f"FreezeSchedule.to_yaml(path=...) must not name a file that is there. Received: "
            f"path={str(path)!r}. Pass overwrite=True to replace it."
        ) from error


def dumps(schedule: FreezeSchedule, name: str) -> str:
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
    starts = schedule.starts()
    for index, phase in enumerate(data["phases"]):
        lines += ["\n", *_comment(schedule, index, starts[index])]
        lines += [f"  {line}\n" for line in dump([phase]).rstrip("\n").split("\n")]
    return "".join(lines)


def _comment(schedule: FreezeSchedule, index: int, start: int | None) -> list[str]:
    frozen = schedule.phases[index].frozen
    training: list[str] = []
    if isinstance(frozen, tuple) and schedule.phases[index].weights == "all":
        training = [_printable(name) for name, _ in schedule.groups if name not in frozen]
    verb = "trains" if len(training) == 1 else "train"
    what = f": {', '.join(reversed(training))} {verb}" if training else ""
    when = f", from epoch {start + 1}" if start is not None else ""
    wrapped = textwrap.wrap(f"phase {index}{when}{what}", 94, break_on_hyphens=False)
    return [f"  # {line}\n" for line in wrapped]


def _printable(name: str) -> str:
    """Return a name as it may stand in a comment, which a line break would end."""
    return name if name.isprintable() else ascii(name)


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
    data = path.read_bytes()
    try:
        return loads(data.decode("utf-8"), path.name)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path.name}, line {line}: a schedule must be text in UTF-8. "
            f"Received: byte {data[error.start]:#x}."
        ) from error


def loads(text: str, name: str) -> FreezeSchedule:
    """Return the schedule that a file's text describes.

    Raises:
        ValueError: if it is none; the message names line and key.
    """
    data, lines = load(text, name)
    try:
        return from_dict(data, name, lines)
    except Misplaced as error:
        place = error.path
        while place not in lines:
            place = place[:-1]
        key = f", {written(error.path)}" if error.path else ""
        raise ValueError(f"{name}, line {lines[place]}{key}: {error.text}") from error
