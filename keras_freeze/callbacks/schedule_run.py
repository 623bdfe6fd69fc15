"""One `fit` under a schedule: what is planned, where it is, and what it does to the model."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from keras_freeze.callbacks import transition_message
from keras_freeze.callbacks.fit_plan import Best, FitPlan, StartingPoint
from keras_freeze.callbacks.run_record import Part, RunRecord
from keras_freeze.callbacks.transition_message import Change
from keras_freeze.checks import counted
from keras_freeze.engine import (
    fingerprint,
    leaf_optimizers,
    recordings,
    rules_of,
    snapshot,
    state_of,
    transition,
)
from keras_freeze.groups import picture_of
from keras_freeze.keras_internals import trainer
from keras_freeze.keras_internals.optimizers import DIALS, NORMS, iterations, skips_steps
from keras_freeze.measures import rates_by_norms, relative_norms
from keras_freeze.model_picture import (
    LayerGroup,
    ModelPicture,
    learning_rate_of,
    main_optimizer,
    optimizers_of,
)
from keras_freeze.policies import Flags, Selection, everything, kept_by_lora, phase_flags
from keras_freeze.reports import parameter_counts
from keras_freeze.schedules import (
    OnPlateau,
    Progress,
    ScheduleRecord,
    every_trigger,
    improves,
    monitored,
    what_fired,
)

# At such a rate weights stand still because units are dead, not because updates are too small.
_HIGH_RATE = 1e-3


@dataclasses.dataclass
class ScheduleRun:
    """The state of one fit, from its first epoch on: names and numbers.

    Attributes:
        plan: What was decided before.
        progress: Where in the schedule it is.
        epoch: Int, 0-based, the present epoch.
        batch: Int, batches of the present epoch that are done.
        steps: Int, batches of the present phase that are done.
        kept: Groups that earlier training unfroze and this one must not freeze again.
        frozen: Names of the groups that are frozen at present.
        multipliers: Learning-rate multiplier by group at present.
        counts: Trainable and non-trainable parameters at present.
        best: The best epoch of the present phase, if it asks for one and there is one.
        has_warned: Bool, whether a plateau's metric that is no number has been warned of.
        has_gone_back: Bool, whether the model was taken back to an earlier state.
        marks: Fingerprints, as the phase began, of groups whose rate may be too small to move them.
        so_far: What has trained so far, and when.
    """

    plan: FitPlan
    progress: Progress
    epoch: int
    batch: int
    steps: int
    kept: frozenset[str]
    frozen: tuple[str, ...]
    multipliers: Mapping[str, float]
    counts: tuple[int, int]
    best: Best | None
    has_warned: bool = False
    has_warned_of_steps: bool = False
    has_gone_back: bool = False
    ticks: int = 0
    marks: Mapping[str, tuple[bytes, ...]] = dataclasses.field(default_factory=dict)
    so_far: RunRecord = dataclasses.field(default_factory=RunRecord)
    #: What asks for the best epoch, and by which argument, for errors.
    asking: ClassVar[tuple[str, str]] = ("Phase", "restore_best")

    @classmethod
    def begin(cls, plan: FitPlan, start: StartingPoint) -> tuple[ScheduleRun, list[str]]:
        """Make the model ready for its first epoch; return the run and the lines to print."""
        frozen = frozen_groups(plan.picture, Selection())
        counts = parameter_counts(plan.picture.model)
        run = cls(
            plan,
            start.progress,
            start.epoch,
            batch=0,
            steps=start.steps,
            kept=start.kept,
            frozen=frozen,
            multipliers={},
            counts=counts,
            best=start.best,
        )
        lines = run.enter(start)
        if run.progress.is_over:
            run.marks = {}  # the phase has ended, and trains nothing here
        # The last fit may have ended with a phase; going back to its best needs its flags.
        return run, run.advance() or lines

    @property
    def model(self) -> keras.Model:
        """The model, with the values of the running fit."""
        return self.present_picture().model

    def present_picture(self) -> ModelPicture:
        """Return the picture of the model, with the values of the running fit."""
        trainer.sync_jax_state(self.plan.picture.model)
        return self.plan.picture

    @property
    def next_transition(self) -> int | None:
        """The first epoch that is wholly behind the present phase; None where that isn't known."""
        if self.progress.is_last:
            return self.plan.epochs
        moment = self.plan.moments[self.progress.index + 1]
        return None if moment is None else moment.epoch + (moment.step > 0)

    @property
    def labels(self) -> dict[str, int]:
        """What the logs of each epoch have beside the counts: nothing here."""
        return {}

    def begin_epoch(self, epoch: int) -> list[str]:
        """Make the transition that is due before an epoch; return the lines to print."""
        self.epoch, self.batch = epoch, 0
        lines = self.advance()
        self.ticks = self._ticks()
        return lines

    def before_batch(self, batch: int) -> list[str]:
        """Make the transition that is due in the middle of an epoch; return the lines to print."""
        self.count_steps(batch)
        lines = []
        if self.progress.is_over and not self.progress.is_last:
            self._end_part()
            lines = self.advance()
            self.ticks = self._ticks()
        self._begin_part()
        if self.is_in_last_phase and self.progress.after_steps(self._execution).is_over:
            # Keras looks at it after this execution.
            self.plan.picture.model.stop_training = True
        return lines

    def end_epoch(self, logs: Mapping[str, Any]) -> list[str]:
        """Take an epoch's metrics into account; return the lines to print."""
        self.count_steps(self.batches_in_epoch)
        self._end_part()
        self.so_far.end_epoch(self.epoch, self.batch)
        self._warn_of_no_step()
        self._warn_of_no_number(logs)
        self.progress = self.progress.after_epoch(logs)
        lines = self._follow_gradients()
        if NORMS in self.records:
            recordings.reset(self.model, NORMS)
        self.keep_best(logs)  # as the next epoch begins: with its rates, and nothing recorded
        lines += self.judge(logs)
        if self.is_in_last_phase and self.progress.is_over:
            self.plan.picture.model.stop_training = True
            when = transition_message.moment(self.epoch, self.plan.epochs, 0)
            lines.append(f"{when}: the last phase is over, and training ends.")
        return lines

    def finish(self) -> list[str]:
        """End the fit: go back to the best of the last phase, and end the group rates."""
        self._warn_of_standstill()
        self.has_gone_back = False
        lines, model = self.conclude(), self.model
        if self.has_gone_back and model.optimizer is not None:
            # As Keras did before with the weights of the last epoch (`use_ema`).
            model.optimizer.finalize_variable_values(model.trainable_weights)
        if set(self.multipliers.values()) - {1.0}:
            lines.append(transition_message.rates_end(learning_rate_of(self.plan.picture.model)))
        transition(self.model, Flags(), {})
        return lines

    def curve_factors(self, since: int | None = None) -> dict[str, float]:
        """Return by group what the phase's curve multiplies its learning rate by; none without one.

        Args:
            since: Int, an iteration count of the optimizer: the mean since then. Defaults to None,
                for the next batch.
        """
        leaf, phase = self._leaf, self.progress.phase
        active = None if leaf is None else rules_of(leaf).curve
        if active is None or phase is None:
            return {}
        now = iterations(leaf)
        ticks = [float(now)] if since is None else _spread(since, now)
        lives, means = self.plan.lives(phase), {}
        for life in set(lives.values()):
            values = [active.curve.factor((t - active.start) / life, active.steps) for t in ticks]
            means[life] = float(np.mean([keras.ops.convert_to_numpy(value) for value in values]))
        return {name: means[life] for name, life in lives.items()}

    @property
    def _leaf(self) -> keras.Optimizer | None:
        """The optimizer whose steps count for curves; None where no single one trains the model."""
        optimizer = main_optimizer(self.plan.picture.model)
        return None if optimizer is None else leaf_optimizers(optimizer)[0]

    @property
    def now(self) -> str:
        """The present moment, as lines begin with it."""
        return transition_message.moment(self.epoch, self.plan.epochs, self.batch)

    @property
    def _execution(self) -> int:
        """The batches of the next execution; an epoch's last may have fewer than others."""
        if self.plan.steps_per_epoch is None:
            return self.plan.stride
        return min(self.plan.stride, self.plan.steps_per_epoch - self.batch)

    @property
    def batches_in_epoch(self) -> int:
        """The batches of the present epoch when its last execution is done."""
        return self.batch + self._execution

    def count_steps(self, batch: int) -> None:
        """Record that so many batches of the present epoch are done."""
        if batch > self.batch:
            self.progress = self.progress.after_steps(batch - self.batch)
            self.steps += batch - self.batch
        self.batch = batch

    def _begin_part(self) -> None:
        """Record what trains from here on, unless that has been done."""
        if self.so_far.present is not None:
            return
        rate, names = learning_rate_of(self.model), self.plan.picture.group_names
        base = 1.0 if rate is None else rate
        rates = {n: base * self.multipliers.get(n, 1.0) for n in names if n not in self.frozen}
        tick = 0 if self._leaf is None else iterations(self._leaf)
        index, count = self.progress.index, self.counts[0]
        self.so_far.present = Part(self.batch, index, rates, count, tick)

    def _end_part(self) -> None:
        """Record that what trains has trained until here."""
        part = self.so_far.present
        if part is not None:
            trainer.sync_jax_state(self.plan.picture.model)
            self.so_far.end_part(self.batch, self.curve_factors(part.tick))

    def what_ran(self) -> ScheduleRecord:
        """Return what has trained so far, and when."""
        picture, so_far = self.plan.picture, self.so_far
        return ScheduleRecord(
            picture.model.name,
            tuple(picture.group_names),
            tuple(so_far.rows),
            so_far.epochs,
            are_multiples=learning_rate_of(self.model) is None,
        )

    def advance(self) -> list[str]:
        """Leave the phase that is over and enter the next; the last is left by the fit's end."""
        lines: list[str] = []
        index = self.progress.index
        while self.progress.is_over and not self.progress.is_last:
            self._warn_of_standstill()
            lines += self.leave()
            self.so_far.end_phase(self.ending)
            self.progress, self.steps = self.progress.next(), 0
        if self.progress.index != index:
            lines += self.enter()
        return lines

    def enter(self, start: StartingPoint | None = None) -> list[str]:
        """Make the model ready for the present phase; return the line that says what changed.

        Args:
            start: Where the fit begins, for its first phase. Defaults to None, for another.
        """
        self._see_new_weights()
        phase, plan, model = self.progress.phase, self.plan, self.model
        if phase is None:
            return []
        frozen_before = None if start is not None or self.begins_anew else self.frozen
        flags_before = [variable.trainable for variable in model.weights]
        frozen = self._without_kept(plan.frozen(phase))
        self.multipliers = plan.multipliers(phase)
        by_variable = {
            id(v): self.multipliers[group.name]
            for group in plan.picture.groups
            for v in group.variables
        }
        flags = phase_flags(plan.picture, frozen, phase.batch_norm)
        curve = plan.curve(phase, self.epoch, self.batch, self.steps)
        joined = None if start is None else start.joined
        transition(model, flags, by_variable, curve, joined, records=self.records)
        if start is not None:  # a fit that was interrupted has left what it recorded
            recordings.begin(model, start.dials)
        self.frozen = frozen_groups(plan.picture, frozen)
        self.counts = parameter_counts(model)
        self.marks = {
            group.name: _fingerprints(group)
            for group in plan.picture.groups
            if self.multipliers[group.name] < 1.0 or _is_coarse(group)
        }
        flags_after = [variable.trainable for variable in model.weights]
        self._read_dials()
        changed = sum(a != b for a, b in zip(flags_before, flags_after, strict=True))
        return [self.what_trains(frozen_before, changed)]

    def what_trains(self, before: Sequence[str] | None = None, changed_variables: int = 0) -> str:
        """Return the line that says what trains and what is frozen, or what of that has changed.

        Args:
            before: The groups that were frozen. Defaults to None, to say all.
            changed_variables: Int, variables of which the flag has changed since. Defaults to 0.
        """
        picture = self.plan.picture
        change = Change(
            groups=self._labels(picture.group_names),
            before=None if before is None else self._labels(before),
            after=self._labels(self.frozen),
            changed_variables=changed_variables,
            parts=_trained_parts(picture),
        )
        rates, rate = self.multipliers.values(), learning_rate_of(self.model)
        by_label = dict(zip(change.groups, rates, strict=True))
        return f"{self.now}: {transition_message.sentence(change, self.counts, by_label, rate)}"

    def _read_dials(self) -> None:
        """Correct the multipliers by what earlier epochs of the same variables have set."""
        dials, found = recordings.dials(self.model), dict(self.multipliers)
        for group in self.plan.picture.groups:
            dial = next((dials[id(v)] for v in group.variables if id(v) in dials), 1.0)
            found[group.name] *= dial
        self.multipliers = found

    def _follow_gradients(self) -> list[str]:
        """Set the rates of the next epoch by the gradients of this one; return a line to print."""
        phase = self.progress.phase
        if phase is None or not self.plan.follows_gradients(phase):
            return []
        picture, base = self.present_picture(), self.plan.multipliers(phase)
        rates = rates_by_norms(relative_norms(picture))
        if not rates:
            return []
        by_variable = {
            id(v): rates[group.name] / base[group.name]
            for group in picture.groups
            if group.name in rates
            for v in group.variables
        }
        recordings.set_dials(self.model, by_variable)
        self.multipliers = {**self.multipliers, **rates}
        if self.epoch + 1 == self.plan.epochs:  # they are for a fit that continues
            return []
        shown = {group.label: rates[group.name] for group in picture.groups if group.name in rates}
        return [transition_message.rates_follow(self.epoch, shown, learning_rate_of(self.model))]

    @property
    def is_in_last_phase(self) -> bool:
        """Whether no phase will follow."""
        return self.progress.is_last

    @property
    def ending(self) -> str:
        """What has ended the present phase, in words; "" where that need not be said."""
        trigger = self.progress.trigger
        return "" if trigger is None else what_fired(trigger, self.progress.state)

    @property
    def records(self) -> frozenset[str]:
        """What the present phase records of gradients, and the dials that it reads."""
        is_auto = self.plan.follows_gradients(self.progress.phase)
        return self.plan.records | ({NORMS, DIALS} if is_auto else set())

    @property
    def begins_anew(self) -> bool:
        """Whether a phase begins another training, so that a change of flags means nothing."""
        return False

    def judge(self, logs: Mapping[str, Any]) -> list[str]:
        """Decide by an epoch's metrics what follows; return lines to print. Here it is given."""
        return []

    def leave(self) -> list[str]:
        """End a phase that another follows; return lines to print."""
        return self.restore_best(self.now)

    def conclude(self) -> list[str]:
        """End the last phase, and say what ran; return the lines."""
        lines, continues = [], self.epoch + 1 == self.plan.epochs < self.plan.total_epochs
        if self.progress.is_last and not continues:
            lines += self.restore_best("After training")
        later = self.plan.moments[self.progress.index + 1 :]
        next_moment = later[0] if later else None
        return lines + transition_message.summary(
            phases=(self.progress.index + 1, len(self.plan.schedule.phases)),
            frozen=self._labels(self.frozen),
            next_epoch=None if next_moment is None else next_moment.epoch,
        )

    def _warn_of_standstill(self) -> None:
        """Warn of groups that trained for a whole phase and have not moved by one bit."""
        groups = [group for group in self.plan.picture.groups if self.marks.get(group.name)]
        trainer.sync_jax_state(self.plan.picture.model)
        still = [group for group in groups if _fingerprints(group) == self.marks[group.name]]
        self.marks = {}
        model = self.plan.picture.model
        leaves = [leaf for opt in optimizers_of(model) for leaf in leaf_optimizers(opt)]
        windows = [leaf.gradient_accumulation_steps or 1 for leaf in leaves]
        for group in still if self.steps >= 2 * max(windows) else ():
            rate = learning_rate_of(model)
            multiplier = self.multipliers[group.name]
            if rate == 0.0 or multiplier == 0.0:  # as was asked for
                continue
            value = f"{multiplier:.1e} times the compiled rate"
            dtype = next(v.dtype for v in group.variables if v.trainable)
            is_high = rate is not None and rate * multiplier >= _HIGH_RATE
            advice = "If the loss has risen, begin anew at a lower rate" if is_high else "Raise it"
            warnings.warn(
                f"{self.plan.owner}: no weight of {group.label} has changed in phase "
                f"{self.progress.index}, in {counted(self.steps, 'step')} at a learning rate of "
                f"{value if rate is None else f'{rate * multiplier:.1e}'}. Its updates are too "
                f"small for {dtype}, or no gradient reaches it. {advice}; or freeze the group.",
                stacklevel=2,
            )

    def _see_new_weights(self) -> None:
        """Read the model again if it has other weights than before (LoRA, quantization)."""
        picture = self.plan.picture
        known = {id(weight.variable) for weight in picture.weights}
        if known != {id(variable) for variable in picture.model.weights}:
            base_trains = picture.lora_base_trains
            now = picture_of(
                picture.model, picture.division, picture.backbone, lora_base_trains=base_trains
            )
            state = state_of(picture.model)
            state.kept_by_lora |= kept_by_lora(now, state.frozen_here)
            kept = frozenset() if base_trains else state.kept_by_lora
            never = now.never_trains | picture.never_trains | kept
            now = dataclasses.replace(now, untouched=picture.untouched, never_trains=never)
            self.plan = dataclasses.replace(self.plan, picture=now)

    def _labels(self, names: Sequence[str]) -> list[str]:
        """Return groups as they are shown: one named by position with its first layer."""
        return [group.label for group in self.plan.picture.groups if group.name in names]

    def _without_kept(self, selection: Selection) -> Selection:
        kept = [group for group in self.plan.picture.groups if group.name in self.kept]
        variables = {id(v) for group in kept for v in group.variables}
        layers = {id(layer) for group in kept for layer in group.layers}
        return selection - Selection(frozenset(variables), frozenset(layers))

    def keep_best(self, logs: Mapping[str, Any]) -> None:
        """Copy the model if this was the best epoch of a phase that asks for it."""
        if self.best_by is None:
            return
        monitor, mode, min_delta = self.best_by
        value = monitored(self.asking[0], monitor, logs, self.asking[1])
        if improves(value, self.best.value if self.best else None, min_delta, mode):
            self.best = Best(value, self.epoch, self.steps, snapshot.capture(self.model))

    @property
    def best_by(self) -> tuple[str, str, float] | None:
        """The metric by which the best epoch is kept, its mode and the least difference."""
        return None if self.progress.phase is None else self.progress.phase.best_by

    def _ticks(self) -> int:
        return max(iterations(optimizer) for optimizer in optimizers_of(self.plan.picture.model))

    def _warn_of_no_step(self) -> None:
        """Warn once if a whole epoch went by without a step of an optimizer that is known."""
        model = self.model
        if self.has_warned_of_steps or not self.batch or self._ticks() != self.ticks:
            return
        self.has_warned_of_steps = True
        advice = (
            "If its train_step uses another, hold that in an attribute of the model: its rates and "
            "its state are not kept in step otherwise."
        )
        if any(skips_steps(optimizer) for optimizer in optimizers_of(model)):
            advice = (
                "A LossScaleOptimizer skips each step that has a gradient that is not finite. Look "
                "for NaN in the data, and for inputs that are not normalized."
            )
        warnings.warn(
            f"{self.plan.owner}: none of the optimizers that model {model.name!r} holds took a "
            f"step in epoch {self.epoch + 1}. {advice}",
            stacklevel=2,
        )

    def _warn_of_no_number(self, logs: Mapping[str, Any]) -> None:
        """Warn once if a plateau's metric is NaN or infinite, which counts as a stall."""
        for trigger in every_trigger(self.progress.trigger):
            if self.has_warned or not isinstance(trigger, OnPlateau):
                continue
            value = float(logs.get(trigger.monitor, 0.0))
            if not math.isfinite(value):
                self.has_warned = True
                warnings.warn(
                    f"{self.plan.owner}: {trigger.monitor} is {value} in epoch {self.epoch + 1}. "
                    "Such an epoch counts as one without improvement, so that phases end, and the "
                    "training with the last. A lower learning rate or clipnorm= may help.",
                    stacklevel=2,
                )

    def restore_best(self, when: str) -> list[str]:
        """Take the model back to the best epoch of the phase that ends, if that is another.

        The learning rate stays, since other callbacks may have changed it on purpose.
        """
        best, self.best = self.best, None
        if best is None or self.best_by is None or best.steps == self.steps:
            return []
        snapshot.restore(self.model, best.state, learning_rate=False)
        self.has_gone_back = True
        metric = f"{self.best_by[0]} {best.value:.4g}"
        return [f"{when}: restored epoch {best.epoch + 1} ({metric})."]


def _spread(first: int, end: int) -> list[float]:
    """Return so many iteration counts in a range that their mean stands for it.

    Example:
        >>> _spread(3, 5), _spread(0, 16)
        ([3.0, 4.0], [0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12.5, 14.5])
    """
    count = min(max(1, end - first), 8)
    each = (end - first) / count
    return [first + max(0.0, (n + 0.5) * each - 0.5) for n in range(count)]


def _is_coarse(group: LayerGroup) -> bool:
    return any(v.trainable and v.dtype in ("float16", "bfloat16") for v in group.variables)


def _fingerprints(group: LayerGroup) -> tuple[bytes, ...]:
    return tuple(fingerprint(variable) for variable in group.variables if variable.trainable)


def _trained_parts(picture: ModelPicture) -> dict[str, tuple[str, ...]]:
    """Return, of groups that train in part, the names of the variables that do.

    A `BatchNormalization` in a mode of its own and what never trains make no group one in part.
    """
    norms = picture.batch_norms_in([picture.model])
    apart = picture.never_trains.union(id(v) for layer in norms for v in layer.weights)
    able = everything(picture).variables - apart
    found = {}
    for group in picture.groups:
        own = [variable for variable in group.variables if id(variable) in able]
        training = tuple(dict.fromkeys(v.name for v in own if v.trainable))
        waiting = {v.name for v in own if not v.trainable}
        if training and waiting and waiting.isdisjoint(training):
            found[group.label] = training
    return found


def frozen_groups(picture: ModelPicture, frozen: Selection) -> tuple[str, ...]:
    """Return the names of the groups that a selection freezes, or in which nothing trains."""
    able = everything(picture).variables
    training = {id(v) for v in picture.model.trainable_variables}
    found = []
    for group in picture.groups:
        own = {id(v) for v in group.variables} & able
        if own <= frozen.variables or own.isdisjoint(training):
            found.append(group.name)
    return tuple(found)
