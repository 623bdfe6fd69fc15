"""What a training brought, phase by phase, and what to try next. Pure: numbers in, a report out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from keras_freeze.checks import counted, first_few
from keras_freeze.reports import Column, ShownAsTable, Table
from keras_freeze.schedules import RecordRow, ScheduleRecord

Verdict = Literal[
    "overfitting", "still improving", "stalled", "diverged", "hardly trained", "unknown"
]
Logs = Sequence[Mapping[str, float]]

# The part of its value by which a loss has to be worse than at its best to have got worse.
_WORSE = 0.02
# A group that has moved by less than this part of its norm has not moved to speak of.
_STILL = 1e-3
# Weights that have moved by this many times their norm, while validation got worse, have left what
# they were.
_FAR = 2.0
# A training loss that rises by this part of its first value comes of a rate that is too high.
_JUMP = 0.5
# A loss that falls in the second half of so many epochs by this part of its fall in the first half
# falls at a steady pace: it is far from where it would level off.
_STEADY, _STEADY_EPOCHS = 0.8, 4
# A validation loss that the last quarter of so many epochs has brought down by less than this part
# of its whole fall has levelled off.
_LEVEL, _LEVEL_EPOCHS = 0.01, 8


@dataclasses.dataclass(frozen=True)
class PhaseGain:
    """What one phase of a training brought.

    Attributes:
        phase: Int, its number from 0.
        epochs: Tuple of two int: its first and last epoch, counted from 1 as Keras prints them.
        training: Tuple of str, the groups that trained, from the head down.
        best: Float, the lowest loss in it; NaN where there is none.
        gain: Float, by how much that is below the lowest loss before it; NaN in the first phase.
    """

    phase: int
    epochs: tuple[int, int]
    training: tuple[str, ...]
    best: float
    gain: float


@dataclasses.dataclass(frozen=True)
class NextStep:
    """Something to try.

    Attributes:
        why: Str.
        code: Str.
    """

    why: str
    code: str


@dataclasses.dataclass(frozen=True, repr=False)
class TrainingReport(ShownAsTable):
    """What a training brought; printed as text, with rich, or as HTML in a notebook.

    Attributes:
        model: Str, the model's name.
        metric: Str, by which phases are compared: `"val_loss"`, or `"loss"` without validation.
        phases: Tuple of `PhaseGain`, in order.
        verdict: `"overfitting"`, `"still improving"`, `"stalled"`, `"diverged"`, `"hardly trained"`
            where the weights have not moved, or `"unknown"` without validation.
        reason: Str, the numbers behind the verdict.
        never_trained: Tuple of str, the groups that never unfroze.
        moved: How far each group has moved, relative to its norm, by a sample of its weights.
        next_steps: Tuple of `NextStep`.
    """

    model: str
    metric: str
    phases: tuple[PhaseGain, ...]
    verdict: Verdict
    reason: str
    never_trained: tuple[str, ...]
    moved: Mapping[str, float]
    next_steps: tuple[NextStep, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain data, ready for JSON; what isn't known is None."""
        found = dataclasses.asdict(self)
        for row in found["phases"]:
            for name in ("best", "gain"):
                row[name] = row[name] if math.isfinite(row[name]) else None
        moved = self.moved.items()
        return {**found, "moved": {n: v if math.isfinite(v) else None for n, v in moved}}

    def __repr__(self) -> str:
        return (
            f"TrainingReport(model={self.model!r}, phases={len(self.phases)}, "
            f"verdict={self.verdict!r})"
        )

    def _table(self) -> Table:
        columns = (
            Column("phase"),
            Column("epochs"),
            Column("trained", fit="wrap"),
            Column(f"best {self.metric}", align="right"),
            Column("gain", align="right"),
        )
        rows = []
        for phase in self.phases:
            first, last = phase.epochs
            epochs = f"{first}" if first == last else f"{first} to {last}"
            values = _number(phase.best, ".4g"), _number(phase.gain, "+.3g")
            rows.append((str(phase.phase), epochs, first_few(phase.training), *values))
        return Table(f"{self.model}: {self.verdict}", columns, tuple(rows), notes=self._notes())

    def _notes(self) -> tuple[str, ...]:
        notes = [self.reason]
        if self.never_trained:
            notes.append(f"Never unfrozen: {first_few(self.never_trained)}.")
        trained = {n: change for n, change in self.moved.items() if n not in self.never_trained}
        if not all(map(math.isfinite, trained.values())):
            notes.append("Weights are NaN or infinite.")
        trained = {n: change for n, change in trained.items() if math.isfinite(change)}
        if any(change >= _STILL for change in trained.values()):
            far = sorted((n for n in trained if trained[n] >= _STILL), key=lambda n: -trained[n])
            shown = ", ".join(f"{name} {_distance(trained[name])}" for name in far[:3])
            notes.append(f"Moved most, relative to their norm: {shown}.")
        still = [name for name, change in trained.items() if change < _STILL]
        if still:
            notes.append(f"Trained, but hardly moved: {first_few(still)}.")
        notes += [f"Next: {step.why}: {step.code}" for step in self.next_steps]
        return tuple(notes)


@dataclasses.dataclass(frozen=True)
class _Losses:
    """The losses of a training, epoch by epoch; NaN where one isn't known."""

    training: tuple[float, ...]
    validation: tuple[float, ...]

    @classmethod
    def of(cls, logs: Logs) -> _Losses:
        return cls(
            *(
                tuple(float(one.get(name, math.nan)) for one in logs)
                for name in ("loss", "val_loss")
            )
        )

    def wants_a_higher_rate(self, first: int) -> bool:
        """Tell whether the training loss goes on falling as at first.

        Over all epochs, and from an epoch (0-based) on, if so many have followed.

        Example:
            >>> _Losses((2.3, 2.2, 2.1, 2.0, 1.9), ()).wants_a_higher_rate(0)
            True
            >>> _Losses((2.3, 1.3, 0.8, 0.6, 0.5), ()).wants_a_higher_rate(0)
            False
        """
        last = self.training[first:]
        return _is_steady(self.training) and (len(last) < _STEADY_EPOCHS or _is_steady(last))

    @property
    def peak(self) -> float | None:
        """The highest training loss, where that is far above the one of the first epoch."""
        known = [value for value in self.training if math.isfinite(value)]
        has_jumped = bool(known) and max(known) - known[0] > _JUMP * abs(known[0])
        return max(known) if has_jumped else None

    @property
    def has_levelled_off(self) -> bool:
        """Whether the last quarter of the epochs has brought next to nothing."""
        own = [value for value in self.validation if math.isfinite(value)]
        if len(own) < _LEVEL_EPOCHS:
            return False
        before, best = min(own[: -len(own) // 4]), min(own)
        return before - best < _LEVEL * (own[0] - best)

    @property
    def are_apart(self) -> bool:
        """Whether validation never got to where training began, while training halved its loss."""
        known = [value for value in self.validation if math.isfinite(value)]
        first, last = self.training[0], self.training[-1]
        return bool(known) and min(known) > first > 0 and last < first / 2


def _is_steady(losses: Sequence[float]) -> bool:
    if len(losses) < _STEADY_EPOCHS:
        return False
    middle = len(losses) // 2
    early = (losses[0] - losses[middle]) / middle
    late = (losses[middle] - losses[-1]) / (len(losses) - 1 - middle)
    return early > 0 and late >= _STEADY * early


def _distance(change: float) -> str:
    """Say how far weights have moved, relative to their norm."""
    return f"{change:.1%}" if change < 10 else f"{change:.3g} times"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def training_report(
    record: ScheduleRecord,
    logs: Logs,
    moved: Mapping[str, float],
    race: tuple[str, int] | None = None,
    last_begins: int = 0,
    finder: str = "kf.find_learning_rate(model, x, y, schedule=callback)",
) -> TrainingReport:
    """Return the report of a training.

    Args:
        record: What the schedule did.
        logs: The logs of each epoch, from the first on; empty for one that isn't known.
        moved: How far each group has moved, relative to its norm.
        race: What a race of freeze depths found, in words and as a depth. Its epochs are those of
            several trainings, of which the winner's are judged. Defaults to None, for another
            training.
        last_begins: Int, the epoch (0-based) in which the last phase was to begin. Defaults to 0.
        finder: Str, the code that finds a learning rate for such a training.

    Example:
        >>> row = RecordRow(0.0, 0, "", {"head": 0.1}, 4)
        >>> record = ScheduleRecord("net", ("low", "head"), (row,), 3.0)
        >>> losses = (2.0, 3.0), (1.0, 2.0), (0.5, 2.5)
        >>> logs = [{"loss": own, "val_loss": other} for own, other in losses]
        >>> report = training_report(record, logs, {"low": 0.0, "head": 0.3})
        >>> report.verdict, report.never_trained
        ('overfitting', ('low',))
    """
    has_validation = any("val_loss" in one for one in logs)
    metric = "val_loss" if has_validation else "loss"
    values = [float(one.get(metric, math.nan)) for one in logs]
    trained = {name for row in record.rows for name in row.rates}
    never = tuple(name for name in record.groups if name not in trained)
    if race is None:
        phases = _phases(record, values)
    else:
        logs = [one for one in logs if one.get("freeze_depth") == race[1]]
        phases = _winner(record, race[1], [float(one.get(metric, math.nan)) for one in logs])
        never = record.groups[: race[1]]
    own = {name: change for name, change in moved.items() if name in trained}
    below = [change for name, change in own.items() if name != record.groups[-1]]
    verdict, reason = _verdict(logs, has_validation, [*own.values()], max(below, default=0.0))
    steps = _next_steps(verdict, phases, never, record, _Losses.of(logs), last_begins, finder)
    if race is not None:
        reason = f"{race[0]}. Of the {counted(len(logs), 'epoch')} at this depth: {reason}"
        code = f'kf.FreezeScheduler({{0: {race[1] or None}}}, rates="default")'
        if verdict == "overfitting":  # beside a race EarlyStopping is refused
            why = "train at this depth, and stop at the best epoch"
            steps = [NextStep(why, f"callbacks=[{code}, {steps[0].code}]")]
        elif verdict not in ("diverged", "hardly trained"):
            steps = [NextStep("train on at this depth", code)]
    return TrainingReport(
        record.model, metric, phases, verdict, reason, never, dict(moved), tuple(steps)
    )


def _phases(record: ScheduleRecord, values: Sequence[float]) -> tuple[PhaseGain, ...]:
    """Return what each phase brought; rows of one phase, between which rates change, are one."""
    parts: list[list[RecordRow]] = []
    for row in record.rows:
        last = parts[-1][0] if parts else row
        if parts and last.phase == row.phase and last.rates.keys() == row.rates.keys():
            parts[-1].append(row)
        else:
            parts.append([row])
    ends = [part[0].epochs for part in parts[1:]] + [record.epochs]
    found, before = [], math.nan
    for part, end in zip(parts, ends, strict=True):
        begin = part[0].epochs
        # An epoch's loss is measured at its end, in the phase that is then.
        own = [v for v in values[math.floor(begin) : math.floor(end)] if math.isfinite(v)]
        best = min(own, default=math.nan)
        epochs = int(begin) + 1, max(int(begin) + 1, math.ceil(end))
        training = tuple(reversed([*part[0].rates]))
        found.append(PhaseGain(part[0].phase, epochs, training, best, before - best))
        before = best if math.isnan(before) else min(before, best)
    return tuple(found)


def _winner(record: ScheduleRecord, depth: int, values: Sequence[float]) -> tuple[PhaseGain, ...]:
    """Return the training of a race's winner as a phase, by its own epochs."""
    training = tuple(reversed(record.groups[depth:]))
    best = min((value for value in values if math.isfinite(value)), default=math.nan)
    return (PhaseGain(0, (1, max(1, len(values))), training, best, math.nan),)


def _verdict(
    logs: Logs, has_validation: bool, moved: Sequence[float], far: float
) -> tuple[Verdict, str]:
    """Judge a training; `far` is how far a group below the head has moved, which begins anew."""
    known = [n for n, one in enumerate(logs) if "loss" in one]
    losses = [float(one.get("loss", math.nan)) for one in logs]
    if not known:
        return "unknown", "No epoch has ended."
    lost = [n for n in known if not math.isfinite(losses[n])]
    if lost or not all(map(math.isfinite, moved)):
        when = f" from epoch {lost[0] + 1} on" if lost else ""
        return "diverged", f"The loss or weights are NaN or infinite{when}."
    if moved and max(moved) < _STILL:
        return "hardly trained", f"No group has moved by more than {max(moved):.2%} of its norm."
    if not has_validation:
        return "unknown", "Without validation data, overfitting can't be judged."
    checked = [float(one.get("val_loss", math.nan)) for one in logs]
    known = [n for n, value in enumerate(checked) if math.isfinite(value)]
    if not known:
        return "unknown", "The validation loss is no number in any epoch."
    first, best, last = known[0], min(known, key=lambda n: checked[n]), known[-1]
    now = f"{checked[last]:.4g} in epoch {last + 1}"
    lowest = f"The validation loss was lowest in epoch {best + 1} ({checked[best]:.4g})"
    if len(known) == 1:
        return "unknown", f"One epoch ({now}) shows no direction."
    slack = _WORSE * abs(checked[best])
    is_worse = checked[last] > checked[best] + slack
    curves = _Losses.of(logs)
    is_lost = is_worse and (far > _FAR or curves.peak is not None)
    if losses[last] > losses[first] + slack or is_lost:
        how = f"the training loss went from {losses[first]:.4g} to {losses[last]:.4g}"
        how += "" if curves.peak is None else f", {curves.peak:.4g} at its highest"
        where = f", and a group moved by {far:.3g} times its norm" if far > _FAR else ""
        return "diverged", f"{lowest} and is {now}; {how}{where}."
    if is_worse and losses[last] < losses[best]:
        falls = f"the training loss fell from {losses[best]:.4g} to {losses[last]:.4g}"
        return "overfitting", f"{lowest} and is {now}, while {falls}."
    if best == last and curves.has_levelled_off:
        return "stalled", f"The validation loss has levelled off ({now})."
    if best == last:
        return "still improving", f"The validation loss is lowest in the last epoch ({now})."
    return "stalled", f"{lowest} and is {now}; the training loss is {losses[last]:.4g}."


def _next_steps(
    verdict: Verdict,
    phases: Sequence[PhaseGain],
    never: Sequence[str],
    record: ScheduleRecord,
    losses: _Losses,
    last_begins: int,
    rate: str,
) -> list[NextStep]:
    """Return what to try next, one thing."""
    wasted = [phase for phase in phases[1:] if phase.gain <= 0]
    if verdict == "diverged":
        why = (
            "these weights are spoiled, so build the model and load what is pretrained anew; then "
            "find a lower rate, and look for NaN in the data"
        )
        return [NextStep(why, rate)]
    if verdict == "hardly trained":
        return [NextStep("find a higher rate", rate)]
    if verdict == "unknown" and any(map(math.isfinite, losses.validation)):
        return [NextStep("train for more than an epoch", "epochs=10")]
    if verdict == "unknown":
        why = "give it validation data, without NaN"
        return [NextStep(why, "validation_data=(x_val, y_val)")]
    if verdict in ("still improving", "stalled") and losses.are_apart:
        why = (
            "validation never came to where training began: see whether its data are prepared and "
            "labelled as those for training are"
        )
        return [NextStep(why, "kf.check(model, x_val, y_val)")]
    if verdict == "still improving":
        if losses.wants_a_higher_rate(phases[-1].epochs[0] - 1 if phases else 0):
            why = "the loss falls as fast as at first, so find a higher rate, or train longer"
            return [NextStep(why, rate)]
        return [NextStep("train longer", f"epochs={2 * max(1, round(record.epochs))}")]
    if verdict == "overfitting":
        begin = max(phases[-1].epochs[0] - 1 if phases else 0, last_begins)
        stop = f"patience=3, start_from_epoch={begin}, restore_best_weights=True"
        return [NextStep("stop at the best epoch", f"keras.callbacks.EarlyStopping({stop})")]
    if wasted:
        what = f"{counted(len(wasted), 'phase')} brought nothing; let the training find the depth"
        return [NextStep(what, f'kf.GradualUnfreeze("auto"), epochs={6 * len(record.groups)}')]
    is_lowest = tuple(record.groups[: len(never)]) == tuple(never)
    if never and is_lowest and len(never) < len(record.groups):
        code = f'kf.FreezeScheduler({{0: {len(never) - 1 or None}}}, rates="default")'
        return [NextStep(f"unfreeze {never[-1]} too", code)]
    return [NextStep("look for a better rate", rate)]
