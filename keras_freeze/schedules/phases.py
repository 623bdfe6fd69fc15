"""Phases and schedules: which part of a model is frozen when. Pure values."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from keras_freeze.groups import Groups
from keras_freeze.policies import (
    FreezeGroups,
    FreezePolicy,
    FreezeWeights,
    as_policy,
    check_weights,
)
from keras_freeze.policies.flags import BatchNormMode, check_batch_norm
from keras_freeze.schedules.curves import Curve
from keras_freeze.schedules.epoch_plans import check_epoch
from keras_freeze.schedules.rates import Rates, check_rates
from keras_freeze.schedules.triggers import (
    AfterEpochs,
    OnPlateau,
    Trigger,
    TriggerLike,
    as_trigger,
    check_count,
    direction,
    every_trigger,
    told_direction,
)

if TYPE_CHECKING:
    from keras_freeze.schedules.previews import SchedulePreview

Frozen = FreezePolicy | Callable[..., bool] | int | str | Sequence[str] | None


@dataclasses.dataclass(frozen=True)
class Source:
    """Where in a file a phase stands, for messages.

    Attributes:
        file: Str, the file's name.
        place: Str, the phase's place in it, such as `"phases[1]"`.
        lines: Mapping from key of the phase to line; the phase's own under `""`.
    """

    file: str
    place: str
    lines: Mapping[str, int]

    def at(self, key: str) -> str:
        """Return the place of a key, or of the phase where it has no such key."""
        if key in self.lines:
            return f"{self.file}, line {self.lines[key]}, {self.place}.{key}"
        return f"{self.file}, line {self.lines['']}, {self.place}"


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of training that has one trainable set.

    Args:
        frozen: What is frozen; everything else trains. An int (that many layer groups from the
            input), a group's name or names or patterns of names, a freeze policy or callable,
            or None or an empty sequence for nothing.
        rates: Multiples of the compiled learning rate by group: a mapping (1 where missing), a
            factor between neighbouring groups, or None for 1 everywhere. Defaults to None.
        batch_norm: Mode for `BatchNormalization` in the pretrained part. Defaults to
            `"frozen"`.
        weights: Which variables of what is frozen: `"all"` (default), or a name or names of
            variables such as `"kernel"`; the others train.
        until: What ends the phase: a trigger, an int (epochs), or a callable
            `(logs) -> bool`. None (default) for the last phase, which lasts as long as the fit;
            a trigger on the last phase ends the fit.
        restore_best: Bool or str. Go back to the best weights of this phase, with their
            optimizer state, when it ends. True goes by the log that its `OnPlateau` watches,
            else by `val_loss`; a str names another. Defaults to False.
        curve: `keras_freeze.schedules.Curve`, how the learning rate changes within the phase,
            on top of the rates of the groups. Defaults to None, for not at all.
        source: Where the phase was read from, for messages. Defaults to None.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is invalid.

    Example:
        >>> from keras_freeze.schedules import OnPlateau
        >>> phase = Phase(frozen=["block1"], rates=2.6, until=OnPlateau() | 10)
        >>> phase.batch_norm, phase.best_by
        ('frozen', None)
        >>> Phase(until=OnPlateau("val_accuracy"), restore_best=True).best_by
        ('val_accuracy', 'max', 0.0)
    """

    frozen: Frozen = None
    rates: Rates = None
    batch_norm: BatchNormMode = "frozen"
    weights: str | Sequence[str] = "all"
    until: TriggerLike | None = None
    restore_best: bool | str = False
    curve: Curve | None = None
    source: Source | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_batch_norm("Phase", self.batch_norm)
        check_rates("Phase", self.rates)
        try:
            self._whole(None)
        except TypeError as error:
            raise TypeError(
                "Phase(frozen=...) must be an int (layer groups from the input), a group's name "
                "or names, a freeze policy or callable (variable, layer) -> bool, or None. "
                f"Received: frozen={self.frozen!r}."
            ) from error
        if self.weights != "all":
            check_weights("Phase", self.weights)
        self._become_value()
        if self.until is not None:
            object.__setattr__(self, "until", _checked_trigger(self.until))
        if self.curve is not None and not isinstance(self.curve, Curve):
            raise TypeError(
                "Phase(curve=...) must be a keras_freeze.schedules.Curve or None. "
                f"Received: curve={self.curve!r}."
            )
        if not isinstance(self.restore_best, (bool, str)) or self.restore_best == "":
            raise TypeError(
                "Phase(restore_best=...) must be True, False or the name of a log. "
                f"Received: restore_best={self.restore_best!r}."
            )
        _ = self.best_by  # which raises where it can't be told

    def _become_value(self) -> None:
        """Write alike what means the same, and keep no hold on what the caller may change."""
        for name in ("frozen", "weights"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.frozen is None:
            object.__setattr__(self, "frozen", ())
        if isinstance(self.rates, Mapping):
            object.__setattr__(self, "rates", dict(self.rates))

    @property
    def trigger(self) -> Trigger | None:
        """What ends the phase."""
        return None if self.until is None else as_trigger(self.until)

    @property
    def best_by(self) -> tuple[str, str, float] | None:
        """The log by which the best weights are kept, its mode and the least difference."""
        if self.restore_best is False:
            return None
        for trigger in every_trigger(self.trigger):
            if isinstance(trigger, OnPlateau) and self.restore_best in (True, trigger.monitor):
                mode = direction("OnPlateau", trigger.monitor, trigger.mode)
                return trigger.monitor, mode, trigger.min_delta
        monitor = self.restore_best if isinstance(self.restore_best, str) else "val_loss"
        told = told_direction(monitor)
        if told is None:
            raise ValueError(
                "Phase(restore_best=...) must name a log of which the name, or an OnPlateau of the "
                f"phase, tells which is better. Received: restore_best={self.restore_best!r}."
            )
        return monitor, told, 0.0

    def policy(self, grouping: Groups | None = None) -> FreezePolicy:
        """Return what is frozen as a policy, for a division of the model into groups."""
        policy = self._whole(grouping)
        return policy if self.weights == "all" else FreezeWeights(self.weights, policy)

    def _whole(self, grouping: Groups | None) -> FreezePolicy:
        if isinstance(self.frozen, FreezePolicy) or callable(self.frozen):
            return as_policy(self.frozen)
        if self.frozen is None or self.frozen in ([], ()):
            return FreezeGroups(0, grouping)
        return FreezeGroups(self.frozen, grouping)


@dataclasses.dataclass(frozen=True)
class FreezeSchedule:
    """A sequence of phases.

    Args:
        phases: Sequence of `Phase`, each but the last with a trigger that ends it. Or a mapping
            from the epoch (int, 0-based) in which a phase begins to the `Phase`, or to what it
            freezes.
        start: Int, the epoch in which the first phase begins, 0-based. Before it the model
            trains as its flags say. Defaults to 0, or to the first epoch of a mapping.
        groups: Pairs of name and number of parameters of the layer groups that the schedule
            was made for. They become comments in its file. Defaults to none.

    Raises:
        TypeError: if the phases are neither a sequence nor a mapping.
        ValueError: if there is no phase, if an epoch is negative, or if a phase before the last
            never ends.

    Example:
        >>> schedule = FreezeSchedule({0: ["block1", "block2"], 4: "block1", 8: None})
        >>> schedule.starts()
        (0, 4, 8)
        >>> schedule.phases[1]
        Phase(frozen='block1', rates=None, batch_norm='frozen', weights='all', \
until=AfterEpochs(epochs=4), restore_best=False, curve=None)
        >>> schedule == FreezeSchedule(
        ...     [Phase(["block1", "block2"], until=4), Phase("block1", until=4), Phase()]
        ... )
        True
    """

    phases: Sequence[Phase]
    start: int = 0
    groups: tuple[tuple[str, int], ...] = dataclasses.field(default=(), compare=False, repr=False)

    if TYPE_CHECKING:  # a mapping is taken too, and becomes a sequence

        def __init__(
            self,
            phases: Sequence[Phase | Any] | Mapping[int, Any],
            start: int = 0,
            groups: tuple[tuple[str, int], ...] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        check_count("FreezeSchedule", "start", self.start, lowest=0)
        given: Any = self.phases
        is_sequence = isinstance(given, Sequence) and not isinstance(given, str)
        if not isinstance(given, Mapping) and not is_sequence:
            raise TypeError(
                "FreezeSchedule(phases=...) must be a sequence of Phase, or a mapping from epoch "
                f"to what is frozen. Received: phases={given!r}."
            )
        if not given:
            raise ValueError(
                "FreezeSchedule(phases=...) must have at least one phase. "
                f"Received: phases={given!r}. To train everything, write {{0: None}}."
            )
        if isinstance(given, Mapping):
            object.__setattr__(self, "start", self._first_epoch(given))
            phases = _by_calendar(given)
        else:
            phases = tuple(map(_as_phase, given))
        object.__setattr__(self, "phases", phases)
        for index, phase in enumerate(phases[:-1]):
            if phase.until is None:
                place = f"{phase.source.at('until')}: " if phase.source else ""
                raise ValueError(
                    f"{place}FreezeSchedule(phases=...) must end each phase but the last. "
                    f"Received: no `until` for phase {index}, so that it never ends and phase "
                    f"{index + 1} is never reached. Give it a number of epochs or a trigger."
                )

    def _first_epoch(self, phases: Mapping[Any, Any]) -> int:
        for epoch in phases:
            check_epoch("FreezeSchedule(phases=...)", epoch)
        if self.start not in (0, min(phases)):
            raise ValueError(
                "FreezeSchedule(start=...) must be left out where phases are given by epoch. "
                f"Received: start={self.start} and phases from epoch {min(phases)}."
            )
        return int(min(phases))

    def starts(self, steps_per_epoch: int | None = None) -> tuple[int | None, ...]:
        """Return the epochs in which the phases begin, None where that depends on the logs.

        Args:
            steps_per_epoch: Int, batches in an epoch, which `AfterSteps` needs.

        Returns:
            Tuple of int (0-based) or None, one for each phase.
        """
        from keras_freeze.schedules.progress import timeline  # which imports this module

        moments = timeline(self, steps_per_epoch)
        return tuple(None if moment is None else moment.epoch for moment in moments)

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as plain data, as a YAML or JSON file holds it.

        Raises:
            TypeError: if it has a callable, or a policy, trigger or curve of your own.
        """
        from keras_freeze.schedules.as_dict import to_dict

        return to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FreezeSchedule:
        """Return the schedule that `to_dict` has written.

        Raises:
            ValueError: if the data are not those of a schedule; the message says where.
        """
        from keras_freeze.schedules.as_dict import from_dict

        return from_dict(data)

    def to_yaml(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a commented file that can be read, edited and given to `FreezeScheduler`.

        Args:
            path: The file, by custom ending in `.yaml`.
            overwrite: Bool, whether to replace a file that is there. Defaults to False.

        Raises:
            FileExistsError: if the file is there already.
            TypeError: as for `to_dict`.
        """
        from keras_freeze.schedules.yaml_file import write

        write(self, Path(path), overwrite)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> FreezeSchedule:
        """Read a schedule from a YAML file. No code runs from it.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a schedule; the message names line and key.
        """
        from keras_freeze.schedules.yaml_file import read

        return read(Path(path))

    def preview(
        self,
        model: keras.Model,
        epochs: int,
        *,
        steps_per_epoch: int | None = None,
        groups: Groups | None = None,
        rates: Rates = None,
    ) -> SchedulePreview:
        """Return a table of what this schedule will do with a model, before anything runs.

        Args:
            model: As for `keras_freeze.schedules.preview`.
            epochs: As for `keras_freeze.schedules.preview`.
            steps_per_epoch: As for `keras_freeze.schedules.preview`.
            groups: As for `keras_freeze.schedules.preview`.
            rates: As for `keras_freeze.schedules.preview`.
        """
        from keras_freeze.schedules.previews import preview  # which imports this module

        steps = steps_per_epoch
        return preview(self, model, epochs, steps_per_epoch=steps, groups=groups, rates=rates)


def _by_calendar(given: Mapping[int, Any]) -> tuple[Phase, ...]:
    epochs = sorted(given)
    phases = [_as_phase(given[epoch]) for epoch in epochs]
    for n, (epoch, phase) in enumerate(zip(epochs[:-1], phases[:-1], strict=True)):
        if phase.until is not None:
            raise ValueError(
                "FreezeSchedule(phases=...) must not give `until` to a phase whose end follows "
                f"from the next one's epoch. Received: until={phase.until!r} at epoch {epoch}. "
                "Leave it out, or give the phases as a sequence."
            )
        phases[n] = dataclasses.replace(phase, until=AfterEpochs(epochs[n + 1] - epoch))
    return tuple(phases)


def _as_phase(item: Any) -> Phase:
    return item if isinstance(item, Phase) else Phase(item)


def _checked_trigger(trigger: TriggerLike) -> Trigger:
    try:
        return as_trigger(trigger)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Phase(until=...): {error}") from error


@contextlib.contextmanager
def placed(phase: Phase, key: str, note: str = "") -> Iterator[None]:
    """Say in an error where in its file a phase stands, or else add a note of which it is."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if phase.source is not None:
            error.args = (f"{phase.source.at(key)}: {error}",)
        elif note:
            error.add_note(note)
        raise
