"""What a live view says, as text. Pure: a status goes in, lines come out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from keras_freeze.checks import counted, first_few
from keras_freeze.live.status import FitState, GroupState, GroupStatus, Status

#: The signs of a group's state, which differ in shape, so that no colour is needed.
SIGNS = {GroupState.TRAINS: "■", GroupState.IN_PART: "◧", GroupState.FROZEN: "□"}

# Of more groups, neighbours that do the same share a line.
_MANY = 12
_BLOCKS = "▁▂▃▄▅▆▇█"


def about(seconds: float) -> str:
    """Say roughly how long something takes.

    Example:
        >>> [about(s) for s in (0.2, 7.4, 43, 80, 170, 3500, 8000, 50_000)]
        ['about 1 s', 'about 7 s', 'about 45 s', 'about 1 min', 'about 3 min', 'about 1 h', \
'about 2 h 10 min', 'about 14 h']
    """
    if seconds < 10:
        return f"about {max(1, round(seconds))} s"
    if seconds < 57.5:
        return f"about {5 * round(seconds / 5)} s"
    minutes = round(seconds / 60)
    if minutes >= 10:
        minutes = 5 * round(minutes / 5)
    if minutes < 60:
        return f"about {minutes} min"
    hours, tens = divmod(round(seconds / 600), 6)
    if hours >= 10 or not tens:
        return f"about {round(seconds / 3600)} h"
    return f"about {hours} h {10 * tens} min"


def elapsed(seconds: float) -> str:
    """Say how long something took.

    Example:
        >>> elapsed(4.2), elapsed(65), elapsed(3720)
        ('4 s', '1 min 05 s', '1 h 02 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def rate(group: GroupStatus) -> str:
    """Return a group's learning rate as it is shown; "" where it is frozen.

    Example:
        >>> rate(GroupStatus("head", 12, GroupState.TRAINS, 0.001))
        '1.0e-03'
        >>> rate(GroupStatus("head", 12, GroupState.TRAINS, 0.5, is_multiple=True))
        'x0.5'
    """
    if group.rate is None:
        return ""
    return f"x{group.rate:.3g}" if group.is_multiple else f"{group.rate:.1e}"


def headline(status: Status) -> str:
    """Say how far the fit has come.

    Example:
        >>> from keras_freeze.schedules import Moment
        >>> headline(Status("net", now=Moment(2, 40), epochs=12, steps=120))
        'Epoch 3 of 12, step 40 of 120'
        >>> headline(Status("net", FitState.STOPPED, Moment(7), epochs=12, seconds=65))
        'Stopped after 7 of 12 epochs, in 1 min 05 s'
    """
    now, epochs, took = status.now, status.epochs, elapsed(status.seconds)
    if status.state is FitState.DONE:
        trained = max(0, now.epoch - status.first)
        earlier = f", {status.first} before" if status.first else ""
        return f"Done: {_counted(trained, 'epoch')} in {took}{earlier}"
    if status.state is FitState.STOPPED:
        return f"Stopped after {now.epoch} of {counted(epochs, 'epoch')}, in {took}"
    if status.state is FitState.INTERRUPTED:
        if now.epoch > status.first and not now.step:
            return f"Interrupted after epoch {now.epoch} of {epochs}, in {took}"
        return f"Interrupted in epoch {now.epoch + 1} of {epochs}, after {took}"
    if now.epoch >= epochs:
        return f"Epoch {epochs} of {epochs} done"
    text = f"Epoch {now.epoch + 1} of {epochs}"
    if not now.step:
        return text
    return f"{text}, step {now.step}" + (f" of {status.steps}" if status.steps else "")


def phase(status: Status) -> str:
    """Say which phase it is and, while it runs, what ends it; "" without a schedule.

    Example:
        >>> from keras_freeze.live.status import PhaseStatus
        >>> waits = PhaseStatus((), 1, 4, "val_loss stalls for 3 epochs", None, "val_loss")
        >>> phase(Status("net", phase=waits))
        'Phase 2 of 4, ends: val_loss stalls for 3 epochs'
    """
    present = status.phase
    if present is None:
        return ""
    number = "Before the first phase"
    if present.index >= 0:
        number = f"Phase {present.index + 1}"
        number += f" of {present.count}" if present.count is not None else ""
    note = f" ({present.note})" if present.note else ""
    if status.state is not FitState.RUNNING:
        return f"{number}{note}"
    return f"{number}{note}, ends: {present.ends}"


def time_left(status: Status) -> list[str]:
    """Say how long the phase and the fit still take, as far as that is known.

    Example:
        >>> time_left(Status("net", phase_left_s=42.0, fit_left_s=200.0, may_end_early=True))
        ['phase: about 40 s left', 'fit: at most about 3 min left']
    """
    if status.state is not FitState.RUNNING:
        return []
    texts = []
    if status.phase is not None and status.phase.waits_for:
        texts.append(f"phase: waits for {status.phase.waits_for}")
    elif status.phase_left_s is not None:
        texts.append(f"phase: {about(status.phase_left_s)} left")
    if status.fit_left_s is not None:
        bound = "at most " if status.may_end_early else ""
        texts.append(f"fit: {bound}{about(status.fit_left_s)} left")
    return texts


def metrics(status: Status) -> str:
    """Return the metrics of the last epoch that is done, as in "loss 0.5, val_loss 0.6"."""
    texts = []
    for curve in status.curves:
        for name, values in ((curve.name, curve.training), (f"val_{curve.name}", curve.validation)):
            is_shown = name == curve.name or curve.has_validation
            if is_shown and values and (not math.isnan(values[-1]) or name == curve.name):
                texts.append(f"{name} {values[-1]:.4g}")
    return ", ".join(texts)


def epoch_line(status: Status) -> str:
    """Return one line about the epoch that has just ended.

    Example:
        >>> from keras_freeze.live.status import Curve
        >>> from keras_freeze.schedules import Moment
        >>> curve = Curve("loss", (0,), (0.5,), (0.625,))
        >>> epoch_line(Status("net", now=Moment(1), epochs=3, curves=(curve,), fit_left_s=61.0))
        'Epoch 1/3: loss 0.5, val_loss 0.625; fit: about 1 min left.'
    """
    parts = [metrics(status), "; ".join(time_left(status))]
    text = "; ".join(part for part in parts if part) or "done"
    return f"Epoch {status.now.epoch}/{status.epochs}: {text}."


def phase_line(status: Status) -> str:
    """Return one line about the phase that begins; of the groups, where no schedule does.

    Example:
        >>> groups = (
        ...     GroupStatus("low", 8, GroupState.FROZEN, None),
        ...     GroupStatus("head", 12, GroupState.TRAINS, 0.01),
        ... )
        >>> phase_line(Status("net", groups=groups))
        'head trains at 1.0e-02; frozen: low.'
    """
    if status.phase is not None:
        return f"{phase(status)}."
    training = []
    for group in reversed(status.groups):
        if group.state is not GroupState.FROZEN:
            at = f" at {rate(group)}" if rate(group) else ""
            training.append(f"{group.label} {group.state.value}{at}")
    frozen = [group.label for group in status.groups if group.state is GroupState.FROZEN]
    parts = [first_few(training)] if training else []
    parts += [f"frozen: {first_few(frozen)}"] if frozen else []
    return f"{'; '.join(parts)}." if parts else ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line about one group, or about several neighbours that do the same.

    Attributes:
        label: Str.
        state: `GroupState`.
        rate: Str, the learning rate, or the lowest and the highest; "" for what is frozen.
        params: Int.
    """

    label: str
    state: GroupState
    rate: str
    params: int


def rows(groups: Sequence[GroupStatus]) -> list[Row]:
    """Return a row for each group, from head to input; neighbours together if there are many.

    Example:
        >>> many = [GroupStatus(f"block{n}", 10, GroupState.FROZEN, None) for n in range(30)]
        >>> [(row.label, row.params) for row in rows(many)]
        [('30 groups (block29 to block0)', 300)]
    """
    found: list[Row] = []
    for run in _runs(list(reversed(groups)), together=len(groups) > _MANY):
        rates = list(dict.fromkeys(rate(group) for group in run))
        label = run[0].label
        if len(run) > 1:
            label = f"{len(run)} groups ({run[0].label} to {run[-1].label})"
        shown = rates[0] if len(rates) == 1 else f"{rates[0]} to {rates[-1]}"
        found.append(Row(label, run[0].state, shown, sum(group.params for group in run)))
    return found


def _runs(groups: Sequence[GroupStatus], *, together: bool) -> Iterator[list[GroupStatus]]:
    run: list[GroupStatus] = []
    for group in groups:
        if run and not (together and group.state is run[-1].state):
            yield run
            run = []
        run.append(group)
    if run:
        yield run


def sparkline(values: Sequence[float], width: int = 30) -> str:
    """Return a curve as a line of blocks; gaps stay empty.

    Example:
        >>> sparkline([3.0, 2.0, float("nan"), 1.0])
        '█▅ ▁'
    """
    shown = thinned(values, width)
    finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    text = ""
    for value in shown:
        if not math.isfinite(value):
            text += " "
            continue
        height = (value - low) / (high - low) if high > low else 0.0
        text += _BLOCKS[math.floor(height * (len(_BLOCKS) - 1) + 0.5)]
    return text


def thinned(values: Sequence[float], most: int) -> list[float]:
    """Return at most so many of some values, evenly spread, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(n * (len(values) - 1) / (most - 1))] for n in range(most)]


def as_lines(status: Status) -> list[str]:
    """Return all that a status holds, as lines of text."""
    lines = [f"{status.model}: {headline(status)}"]
    shown = rows(status.groups)
    width = max((len(row.label) for row in shown), default=0)
    for row in shown:
        what = row.rate or row.state.value
        lines.append(f"  {SIGNS[row.state]} {row.label:<{width}}  {what}")
    lines += [text for text in (phase(status), ", ".join(time_left(status))) if text]
    if metrics(status):
        lines.append(metrics(status))
    if status.cache:
        lines.append(f"cache: {status.cache}")
    return [*lines, *status.log]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
