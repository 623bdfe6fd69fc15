"""`LiveView`: see what a training does while it runs."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import keras

from keras_freeze.base_callback import BaseCallback
from keras_freeze.checks import ArgumentError, is_number
from keras_freeze.groups import picture_of
from keras_freeze.keras_internals import trainer
from keras_freeze.keras_internals.callback_list import (
    move_before_progress_bar,
    sibling_callbacks,
    when_released,
)
from keras_freeze.keras_internals.processes import is_first
from keras_freeze.live.displays import FORMS, Display, Form, Occasion, display_for
from keras_freeze.live.groups import groups_of
from keras_freeze.live.pace import Pace
from keras_freeze.live.status import FitState, GroupState, GroupStatus, Metrics, PhaseStatus, Status
from keras_freeze.model_picture import ModelPicture
from keras_freeze.prefix_cache import PrefixCache
from keras_freeze.schedules import Moment

# The part of a fit's time that a display may take which is updated in place.
_MAX_SHARE = 0.01
# So many lines are part of each update; at the end, all are shown.
_MAX_LOG = 100


class Followed(Protocol):
    """A callback with a schedule, as a live view sees it."""

    @property
    def phase_index(self) -> int | None:
        """The number of the present phase, None while none is known."""

    def phase_status(self) -> PhaseStatus | None:
        """Return the present phase, None while none is known; called where one may begin."""


@dataclasses.dataclass(eq=False)
class _Run:
    """One fit.

    Attributes:
        display: Where it is shown.
        pace: What is known of its times.
        metrics: Those of the epochs that are done.
        begun: Float, the clock as it began.
        epochs: Int, the last epoch's number as Keras prints it.
        first: Int, 0-based, the epoch it began with; None before that.
        now: `Moment`, the present one.
        phase: The present phase; None without a schedule.
        groups: The groups at present.
        picture: The picture of the model, where no schedule tells of the groups.
        transitions: The epochs done when a phase began, but for the first.
        log: What was said.
        unprinted: What of it would be printed, did it not stand in the display.
        pending: The status after the last epoch, if it is still to be shown.
        shown_at: Float, the clock as the last status had been shown.
        spent: Float, seconds that it took to show states since the first.
        has_shown: Bool, whether one was shown.
        release: Takes back what was to happen when the fit is over for another reason.
    """

    display: Display
    pace: Pace
    metrics: Metrics
    begun: float
    epochs: int
    first: int | None = None
    now: Moment = dataclasses.field(default_factory=lambda: Moment(0))
    phase: PhaseStatus | None = None
    groups: tuple[GroupStatus, ...] = ()
    picture: ModelPicture | None = None
    transitions: list[float] = dataclasses.field(default_factory=list)
    log: list[str] = dataclasses.field(default_factory=list)
    unprinted: list[str] = dataclasses.field(default_factory=list)
    pending: Status | None = None
    shown_at: float = 0.0
    spent: float = 0.0
    has_shown: bool = False
    release: Any = None


class LiveView(BaseCallback):
    """Show what a training does while it runs, on one display that is updated in place.

    It shows the layer groups with their state and learning rate, the phase of the schedule and what
    ends it, about how long phase and fit still take, the loss and a metric by epoch with the
    transitions, and what the prefix cache does. It stands beside any other callback. Without a
    schedule it shows the groups of `layer_groups`.

    In a notebook it is one output of HTML, in Jupyter, VS Code and Colab alike. There
    `GradualUnfreeze` and the other schedules show it by themselves with `verbose=1`, and the lines
    that they would print stand in it. In a terminal it is a panel: at the bottom, updated in place,
    with `fit(verbose=0)`; else one at each phase, between Keras's progress bars. In a file or pipe
    it is a line for each epoch.

    Times are estimated from the median of the steps and epochs so far in which the same groups
    trained, so that the fit may take longer than it says before more groups unfreeze. Learning
    rates are those at the beginning of the epoch or phase. In place it is updated at most once in
    `interval_s` and at the ends of epochs, and takes at most 1 % of the time. If it fails, it is
    switched off with a warning; the training goes on.

    Args:
        form: `"auto"` (default), `"notebook"`, `"terminal"` or `"lines"`.
        metric: Str, the metric to show beside the loss. Defaults to None: accuracy, if there is
            one, else the first metric that validation has too.
        interval_s: Float, seconds from one update to the next. Defaults to 1.

    Raises:
        ValueError: if an argument is invalid; in `fit`, if there are two in the list, or if it is
            to be in a notebook, and there is none.

    Example:
        >>> import numpy as np, keras_freeze as kf
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((4,)),
        ...         keras.layers.Dense(3, use_bias=False, name="low"),
        ...         keras.layers.Dense(1),
        ...     ]
        ... )
        >>> model.compile(keras.optimizers.SGD(0.1), "mse")
        >>> x, y = np.zeros((8, 4)), np.ones((8, 1))
        >>> callbacks = [kf.GradualUnfreeze({0: "head"}, backbone="low"), LiveView("lines")]
        >>> history = model.fit(x, y, epochs=1, verbose=0, callbacks=callbacks)
        ... # doctest: +ELLIPSIS
        Backbone: low (1 layer); new: 1 layer.
        Epoch 1/1: head trains at 1.0e-01, low is frozen; 4 of 16 parameters train.
        Phase 1 of 1, ends: with the fit.
        Epoch 1/1: loss 1.
        After training: low is frozen, as no phase of the schedule unfreezes more.
        ...
    """

    #: The clock, in seconds.
    clock: Callable[[], float] = staticmethod(time.perf_counter)

    _run: _Run | None = None
    _source: Followed | None = None
    _caches: tuple[PrefixCache, ...] = ()
    _siblings: tuple[Any, ...] = ()
    _is_off = False

    def __init__(
        self, form: Form = "auto", *, metric: str | None = None, interval_s: float = 1.0
    ) -> None:
        super().__init__()
        owner = "LiveView"
        if form not in FORMS:
            rule = 'be "auto", "notebook", "terminal" or "lines"'
            raise ArgumentError(owner, "form", rule, value=form)
        if metric is not None and (not isinstance(metric, str) or not metric):
            rule = "be the name of a metric, or None"
            raise ArgumentError(owner, "metric", rule, value=metric)
        if not is_number(interval_s) or interval_s < 0:
            rule = "be a non-negative number of seconds"
            raise ArgumentError(owner, "interval_s", rule, value=interval_s)
        self.form = form
        self.metric = metric
        self.interval_s = interval_s

    @property
    def is_on(self) -> bool:
        """Whether it shows the present fit, and not has failed to."""
        return not self._is_off

    @property
    def keeps_lines(self) -> bool:
        """Whether lines about the training stand in the display instead of being printed."""
        return self.is_on and self._present_run().display.keeps_lines

    def set_model(self, model: keras.Model) -> None:
        """Take the model, and move behind the callbacks that are to be shown."""
        super().set_model(model)
        self._end(FitState.INTERRUPTED)
        # Of several processes that train a model together, one shows it.
        self._run, self._source, self._is_off = None, None, not is_first()
        self._siblings = sibling_callbacks(self)
        self._caches = tuple(c for c in self._siblings if isinstance(c, PrefixCache))
        move_before_progress_bar(self)

    def follow(self, source: Followed, cache: PrefixCache | None = None) -> None:
        """Show the schedule of another callback, and the cache that it runs.

        Args:
            source: The callback.
            cache: `PrefixCache`, or None.
        """
        self._source = source
        if cache is not None:
            self._caches = (cache,)

    def say(self, lines: Iterable[str], *, is_printed: bool = True) -> None:
        """Show lines about the training.

        Args:
            lines: The lines.
            is_printed: Bool, whether they are printed too, where the display doesn't keep them.
                Defaults to True.
        """
        run = self._present_run()
        self._carefully(run, lambda: self._say(run, list(lines), is_printed))

    def settle(self, states: Mapping[str, GroupState]) -> None:
        """Show what groups do after the fit, where a schedule goes back to an earlier state.

        Args:
            states: By the label of a group.
        """
        run = self._present_run()
        run.groups = tuple(
            dataclasses.replace(
                group,
                state=states[group.label],
                rate=None if states[group.label] is GroupState.FROZEN else group.rate,
            )
            for group in run.groups
        )

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Begin to measure times."""
        if any(isinstance(other, LiveView) for other in self._siblings):
            raise ArgumentError("fit", "callbacks", "contain at most one LiveView")
        self._present_run().begun = self.clock()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Show the phase that begins, or the groups where the fit begins."""
        run = self._run
        if run is not None and not self._is_off:
            self._carefully(run, lambda: self._begin_epoch(run, epoch))

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Measure the time of a step, and update the display now and then.

        Not at the end of a step: that would keep Keras from dispatching asynchronously.
        """
        run = self._run
        if run is not None and not self._is_off:
            self._carefully(run, lambda: self._begin_batch(run, batch))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Take the metrics of an epoch, and show them."""
        run = self._run
        if run is not None and not self._is_off:
            self._carefully(run, lambda: self._end_epoch(run, epoch, logs or {}))

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Show how the fit has ended."""
        run = self._run
        if run is None:
            return
        if run.first is None:  # a resumed training that was complete
            self._carefully(run, lambda: self._begin_at(run, None))
        is_done = run.now.epoch >= run.epochs
        self._end(FitState.DONE if is_done else FitState.STOPPED)

    def _present_run(self) -> _Run:
        if self._run is None:
            params = self.params or {}
            self._run = _Run(
                display=display_for(
                    self.form,
                    has_bar=params.get("verbose", 1) != 0,
                    on_end_of_cell=lambda error: self._end(FitState.INTERRUPTED),
                ),
                pace=Pace(params.get("steps")),
                metrics=Metrics(self.metric),
                begun=self.clock(),
                epochs=params.get("epochs", 1),
                release=when_released(lambda: self._end(FitState.INTERRUPTED)),
            )
        return self._run

    def _say(self, run: _Run, lines: Sequence[str], is_printed: bool) -> None:
        run.log += lines
        if lines and is_printed:
            self._show_pending(run)
            run.unprinted += lines if run.display.keeps_lines else ()
        for line in lines if is_printed else ():
            run.display.say(line, in_epoch=run.now.step > 0)

    def _begin_at(self, run: _Run, epoch: int | None) -> None:
        """Record where the fit begins, and read what was trained before a resume."""
        for other in self._siblings:
            if isinstance(other, keras.callbacks.History) and hasattr(other, "epoch"):
                run.metrics.add_history(other.epoch, other.history)
        first = run.metrics.epochs_done if epoch is None else epoch
        run.first, run.now = first, Moment(first)

    def _begin_epoch(self, run: _Run, epoch: int) -> None:
        is_first = run.first is None
        if is_first:
            self._begin_at(run, epoch)
        run.now = Moment(epoch)
        self._show_pending(run)
        has_changed = self._read_phase(run)
        run.pace.begin_epoch(self.clock(), self._key(run))
        if has_changed or is_first:
            self._show(run, Occasion.PHASE)

    def _begin_batch(self, run: _Run, batch: int) -> None:
        now = self.clock()
        run.now = Moment(run.now.epoch, batch)
        run.pace.begin_batch(now, batch)
        index = None if self._source is None else self._source.phase_index
        if run.phase is not None and index != run.phase.index:
            self._read_phase(run)
            run.pace.change(self._key(run))
            run.pace.begin_batch(now, batch)
            self._show(run, Occasion.PHASE)
        elif run.display.is_redrawn and now - run.shown_at >= self.interval_s:
            self._show(run, Occasion.STEP)

    def _end_epoch(self, run: _Run, epoch: int, logs: Mapping[str, Any]) -> None:
        run.pace.end_epoch(self.clock())
        run.metrics.add(epoch, logs)
        run.now = Moment(epoch + 1)
        run.pending = self._status(run)
        if run.display.is_redrawn:
            self._show_pending(run)

    def _show_pending(self, run: _Run) -> None:
        """Show the status after an epoch: where lines are printed, when the bar is complete."""
        status, run.pending = run.pending, None
        if status is not None:
            self._show(run, Occasion.EPOCH, status)

    def _read_phase(self, run: _Run) -> bool:
        """See which groups train in which phase; tell whether that has changed."""
        before = run.phase, [(group.label, group.state) for group in run.groups]
        if self._source is not None:
            run.phase = self._source.phase_status()
            run.groups = () if run.phase is None else run.phase.groups
        else:
            run.groups = self._own_groups(run)
        is_other = [(group.label, group.state) for group in run.groups] != before[1]
        if before[0] is not None and run.phase is not None:
            is_other |= run.phase.index != before[0].index
            if run.phase.index != before[0].index:
                within = run.now.step / run.pace.steps if run.pace.steps else 0.0
                run.transitions.append(run.now.epoch + within)
        return is_other

    def _own_groups(self, run: _Run) -> tuple[GroupStatus, ...]:
        model = trainer.model_of(self)
        if run.picture is None:
            try:
                run.picture = picture_of(model)
            except (TypeError, ValueError):  # a model without layers has no groups to show
                return ()
        return groups_of(run.picture)

    def _key(self, run: _Run) -> Hashable:
        return tuple((group.label, group.state) for group in run.groups)

    def _status(self, run: _Run, state: FitState = FitState.RUNNING) -> Status:
        end = None if run.phase is None else run.phase.end
        is_ahead = end is not None and (end.epoch, end.step) > (run.now.epoch, run.now.step)
        fit_end, is_fit_ahead = Moment(run.epochs), run.now.epoch < run.epochs
        stops = any(isinstance(other, keras.callbacks.EarlyStopping) for other in self._siblings)
        caches = [cache.state for cache in self._caches]
        return Status(
            model=trainer.model_of(self).name,
            state=state,
            now=run.now,
            first=run.first or 0,
            epochs=run.epochs,
            steps=run.pace.steps,
            seconds=self.clock() - run.begun,
            groups=run.groups,
            phase=run.phase,
            phase_left_s=run.pace.seconds_until(end, run.now) if end and is_ahead else None,
            fit_left_s=run.pace.seconds_until(fit_end, run.now) if is_fit_ahead else None,
            may_end_early=stops or (run.phase is not None and run.phase.may_end_early),
            curves=run.metrics.curves(),
            transitions=tuple(run.transitions),
            cache="; ".join(text for text in caches if text),
            log=tuple(run.log if state is not FitState.RUNNING else run.log[-_MAX_LOG:]),
        )

    def _show(self, run: _Run, occasion: Occasion, status: Status | None = None) -> None:
        """Show a status, unless what is updated in place has taken more than its time."""
        begun = self.clock()
        is_due = run.spent <= _MAX_SHARE * (begun - run.begun)
        if run.display.is_redrawn and run.has_shown and occasion is not Occasion.END and not is_due:
            return
        run.display.show(self._status(run) if status is None else status, occasion)
        run.shown_at = self.clock()
        if run.has_shown:  # the first one loads what it needs
            run.spent += run.shown_at - begun
        run.has_shown = True

    def _end(self, state: FitState) -> None:
        """Show how the fit has ended, and release what it held; a second call does nothing."""
        run, self._run = self._run, None
        if run is None:
            return
        if run.release is not None:
            run.release.detach()
        if not self._is_off:
            self._carefully(run, lambda: self._show_end(run, state))
        run.display.close()
        self._source, self._caches, self._siblings = None, (), ()

    def _show_end(self, run: _Run, state: FitState) -> None:
        self._show_pending(run)
        if run.first is not None or run.log:  # else an error has ended it before it began
            self._show(run, Occasion.END, self._status(run, state))

    def _carefully(self, run: _Run, show: Callable[[], None]) -> None:
        """Do something for the display; if that fails, switch it off, so that training goes on."""
        try:
            show()
        except Exception as error:
            self._is_off = True
            run.display.close()
            for line in run.unprinted:
                print(line)
            warnings.warn(
                "LiveView is switched off for the rest of this fit, since it failed: "
                f"{type(error).__name__}: {error}",
                stacklevel=2,
            )
