"""`FreezeSchedule`: which part of a model is frozen when. A pure value, the top of this folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from keras_freeze.checks import ArgumentError, ArgumentTypeError, check_count
from keras_freeze.groups import Backbone, Groups
from keras_freeze.schedules import as_dict, previews, yaml_file
from keras_freeze.schedules.epoch_plans import REST, check_epoch
from keras_freeze.schedules.locations import placed
from keras_freeze.schedules.phase import Phase
from keras_freeze.schedules.previews import SchedulePreview
from keras_freeze.schedules.progress import timeline
from keras_freeze.schedules.rates import Rates
from keras_freeze.schedules.triggers import AfterEpochs

#: A representation shows the phases of a longer schedule with `...` in their middle.
_MAX_SHOWN = 4


@dataclasses.dataclass(frozen=True, repr=False)
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
        Phase(frozen='block1', until=AfterEpochs(epochs=4))
        >>> schedule == FreezeSchedule(
        ...     [Phase(["block1", "block2"], until=4), Phase("block1", until=4), Phase()]
        ... )
        True
    """

    phases: Sequence[Phase]
    start: int = 0
    groups: tuple[tuple[str, int], ...] = dataclasses.field(default=(), compare=False, repr=False)

    if TYPE_CHECKING:  # a mapping is accepted too, and becomes a sequence

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
            raise ArgumentTypeError(
                "FreezeSchedule",
                "phases",
                "be a sequence of Phase, or a mapping from epoch to what is frozen",
                value=given,
            )
        if not given:
            raise ArgumentError(
                "FreezeSchedule",
                "phases",
                "have at least one phase",
                value=given,
                advice="To train everything, write {0: None}.",
            )
        if isinstance(given, Mapping):
            object.__setattr__(self, "start", self._first_epoch(given))
            phases = _by_epoch(given)
        else:
            phases = tuple(map(_as_phase, given))
        phases = _with_names(phases)
        object.__setattr__(self, "phases", phases)
        for index, phase in enumerate(phases[:-1]):
            if phase.until is None:
                with placed(phase, "until"):
                    raise ArgumentError(
                        "FreezeSchedule",
                        "phases",
                        "end each phase but the last",
                        received=f"no `until` for phase {index}, so that it never ends and phase "
                        f"{index + 1} is never reached",
                        advice="Give it a number of epochs or a trigger.",
                    )

    def _first_epoch(self, phases: Mapping[Any, Any]) -> int:
        for epoch in phases:
            check_epoch("FreezeSchedule", "phases", epoch)
        first = min(phases)
        if self.start not in (0, first):
            raise ArgumentError(
                "FreezeSchedule",
                "start",
                "be left out where phases are given by epoch",
                received=f"start={self.start} and phases from epoch {first}",
            )
        return int(first)

    def __repr__(self) -> str:
        phases = list(map(repr, self.phases))
        if len(phases) > _MAX_SHOWN:
            phases[1:-1] = ["..."]
        start = f", start={self.start}" if self.start else ""
        return f"FreezeSchedule([{', '.join(phases)}]{start})"

    def _repr_html_(self) -> str:
        return previews.outline(self).as_html()

    def starts(self, steps_per_epoch: int | None = None) -> tuple[int | None, ...]:
        """Return the epochs in which the phases begin, None where that depends on metrics.

        Args:
            steps_per_epoch: Int, batches in an epoch, which `AfterSteps` needs.

        Returns:
            Tuple of int (0-based) or None, one for each phase.
        """
        moments = timeline(self, steps_per_epoch)
        return tuple(None if moment is None else moment.epoch for moment in moments)

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as plain data, as a YAML or JSON file holds it.

        Raises:
            TypeError: if it has a callable, or a policy, trigger or curve of your own.
        """
        return as_dict.to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FreezeSchedule:
        """Return the schedule that `to_dict` returned as plain data.

        Raises:
            ValueError: if the data are not those of a schedule; the message says where.
        """
        return as_dict.from_dict(data, cls)

    def to_yaml(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a commented file that can be read, edited and given to `FreezeScheduler`.

        Args:
            path: The file, by custom ending in `.yaml`.
            overwrite: Bool, whether to replace a file that is there. Defaults to False.

        Raises:
            FileExistsError: if the file is there already.
            TypeError: as for `to_dict`.
        """
        yaml_file.write(self, Path(path), overwrite)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> FreezeSchedule:
        """Read a schedule from a YAML file. No code runs from it.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a schedule; the message names line and key.
        """
        return yaml_file.read(Path(path), cls)

    def preview(
        self,
        model: keras.Model,
        epochs: int,
        *,
        steps_per_epoch: int | None = None,
        groups: Groups | None = None,
        backbone: Backbone | None = None,
        rates: Rates = None,
        batch_size: int | None = None,
    ) -> SchedulePreview:
        """Return a table of what this schedule will do with a model, before anything runs.

        Args:
            model: As for `keras_freeze.schedules.preview`.
            epochs: As for `keras_freeze.schedules.preview`.
            steps_per_epoch: As for `keras_freeze.schedules.preview`.
            groups: As for `keras_freeze.schedules.preview`.
            backbone: As for `keras_freeze.schedules.preview`.
            rates: As for `keras_freeze.schedules.preview`.
            batch_size: As for `keras_freeze.schedules.preview`.
        """
        return previews.preview(
            self,
            model,
            epochs,
            steps_per_epoch=steps_per_epoch,
            groups=groups,
            backbone=backbone,
            rates=rates,
            batch_size=batch_size,
        )


def _by_epoch(given: Mapping[int, Any]) -> tuple[Phase, ...]:
    epochs = sorted(given)
    phases = [_as_phase(given[epoch]) for epoch in epochs]
    for n, (epoch, phase) in enumerate(zip(epochs[:-1], phases[:-1], strict=True)):
        if phase.until is not None:
            raise ArgumentError(
                "FreezeSchedule",
                "phases",
                "not give `until` to a phase that ends at the epoch of the next",
                received=f"until={phase.until!r} at epoch {epoch}",
                advice="Leave it out, or give the phases as a sequence.",
            )
        phases[n] = dataclasses.replace(phase, until=AfterEpochs(epochs[n + 1] - epoch))
    return tuple(phases)


def _with_names(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """Tell each phase that freezes the rest what those before it name."""
    told: list[Phase] = []
    named: dict[str, None] = {}
    for phase in phases:
        if REST in phase.names:
            phase = dataclasses.replace(phase)
            object.__setattr__(phase, "named_before", tuple(named))
        told.append(phase)
        named.update(dict.fromkeys(name for name in phase.names if name != REST))
    return tuple(told)


def _as_phase(item: Any) -> Phase:
    return item if isinstance(item, Phase) else Phase(item)
