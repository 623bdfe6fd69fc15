"""The callback that checks that what is frozen stays as it is, to the last bit."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import keras
import xxhash

from keras_freeze.base_callback import BaseCallback
from keras_freeze.checks import ArgumentError, first_few, is_int
from keras_freeze.engine import fingerprint, flags_in_force, state_of, sync_jax_state_by
from keras_freeze.keras_internals.callback_list import move_to_end
from keras_freeze.keras_internals.trainer import model_of
from keras_freeze.model_picture import (
    HiddenState,
    Weight,
    every_layer,
    frozen_hidden_states,
    frozen_weights,
    is_built,
)
from keras_freeze.policies import Flags

_Flag = tuple[Any, bool]  # a layer or variable, and its flag

_CONSEQUENCES = {
    "tensorflow": "The running train step continues to train what it trained before.",
    "jax": "The running train step keeps to the old flags; it fails or mixes weights up.",
    "torch": "The optimizer still knows the old set only, and fails at a weight that unfreezes.",
}


@dataclasses.dataclass
class Run:
    """The state of one `fit`.

    Attributes:
        epoch: Int, 0-based.
        checked: Int, the steps of this epoch after which weights were last compared.
        in_force: The flags that the train step goes by; another object after a transition.
        flags: The same with the objects themselves, first all layers, then all variables.
        watched: The frozen weights and their fingerprints, by variable id.
        hidden: Frozen layers with state that no variable holds, by id, with its fingerprints.
        moved: Ids of the weights that have been warned of.
        flipped: Ids and new flags that have been warned of since the last transition.
        restored: Int, how often the model's whole training state has been replaced.
    """

    epoch: int = 0
    checked: int = 0
    in_force: Mapping[int, bool] | None = None
    flags: tuple[_Flag, ...] = ()
    watched: dict[int, tuple[Weight, bytes]] = dataclasses.field(default_factory=dict)
    hidden: dict[int, tuple[keras.Layer, dict[str, bytes]]] = dataclasses.field(
        default_factory=dict
    )
    moved: set[int] = dataclasses.field(default_factory=set)
    flipped: set[tuple[int, bool]] = dataclasses.field(default_factory=set)
    restored: int = 0


class FreezeGuard(BaseCallback):
    """Check while a model trains that its frozen weights stay as they are, to the last bit.

    Layers can change weights though they are frozen: `SpectralNormalization` does, and so does
    any layer that assigns in its `call`. The guard takes a fingerprint of every frozen weight,
    moving statistics and counters included, and names those that moved, and when. So it does with
    what a layer holds beside its variables, such as the buffers of a torch module.

    Before every step it also compares the `trainable` flags with those that the step was built
    for. A callback that changes flags and leaves it at that does not have the intended
    effect: on TensorFlow the old set continues to train. The schedulers of this package, `freeze`,
    `unfreeze` and `recompile` change both together; the guard then watches what is frozen
    now. It may stand anywhere in the list of callbacks: it moves itself behind the others.

    Where nothing is frozen it costs next to nothing, and elsewhere little: see `benchmarks`. A
    model that is built by its first step is watched from its second.

    Args:
        every: `"epoch"` (default) to compare weights after each epoch, or an int, in steps, to
            do so within epochs too.
        action: `"raise"` (default) an error, or `"warn"` once of each weight and each flag, and
            let training go on where the backend can.

    Raises:
        ValueError: if an argument is invalid.
        RuntimeError: during training, if a frozen weight moved or a flag was changed without
            a recompile.

    Example:
        >>> import numpy as np
        >>> import keras_freeze as kf
        >>> unsteady = keras.layers.SpectralNormalization(keras.layers.Dense(3), name="unsteady")
        >>> model = keras.Sequential([keras.Input((4,)), unsteady, keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> result = kf.freeze(model, layers=["unsteady"])
        >>> x, y = np.ones((8, 4)), np.ones((8, 1))
        >>> model.fit(x, y, verbose=0, callbacks=[FreezeGuard()])
        Traceback (most recent call last):
            ...
        RuntimeError: FreezeGuard: 2 frozen weights moved in epoch 1: ...
    """

    rank_at_end = 1  # see `callback_list.move_to_end`
    _run: Run | None = None

    def __init__(
        self, every: int | Literal["epoch"] = "epoch", *, action: Literal["raise", "warn"] = "raise"
    ):
        super().__init__()
        if every != "epoch" and not (is_int(every) and every > 0):
            raise ArgumentError(
                "FreezeGuard", "every", 'be "epoch" or a positive int (steps)', value=every
            )
        if action not in ("raise", "warn"):
            raise ArgumentError("FreezeGuard", "action", 'be "raise" or "warn"', value=action)
        self.every = every
        self.action = action

    def set_model(self, model: keras.Model) -> None:
        """Take the model, and a place behind all callbacks that may change it."""
        super().set_model(model)
        move_to_end(self)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Record the flags that this fit begins with."""
        self._run = Run()
        flags_in_force(model_of(self))

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Count from the beginning of this epoch."""
        if self._run is not None:
            self._run.epoch, self._run.checked = epoch, 0

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Check the flags that this step begins with, and the weights if it is their turn."""
        # Not at the end of a step: that would keep Keras from dispatching asynchronously.
        run = self._run
        if run is None:
            return
        self._check_flags(run, f"before epoch {run.epoch + 1}, step {batch + 1}")
        if self.every != "epoch" and batch - run.checked >= self.every:
            first = run.checked + 1
            steps = f"step {batch}" if first == batch else f"steps {first} to {batch}"
            self._check_weights(run, f"in epoch {run.epoch + 1}, {steps}")
            run.checked = batch

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Check the flags and the weights that the epoch ends with."""
        run = self._run
        if run is None:
            return
        self._check_flags(run, f"in epoch {epoch + 1}")
        since = f", after step {run.checked}" if run.checked else ""
        self._check_weights(run, f"in epoch {epoch + 1}{since}")

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Release the model's weights."""
        self._run = None

    def _check_flags(self, run: Run, when: str) -> None:
        # On JAX reading `self.model` would pair values with variables by these flags.
        model = model_of(self)
        if run.in_force is None and not is_built(model):
            return
        in_force, restored = flags_in_force(model), state_of(model).restored
        if restored != run.restored:  # other weights, on purpose
            run.restored, run.watched, run.hidden = restored, {}, {}
        is_new = in_force is not run.in_force
        if is_new:
            self._check_unfrozen(run, when)
            run.in_force, run.flags = in_force, _with_objects(model, in_force)
            run.flipped.clear()
        flipped = [(x, not flag) for x, flag in run.flags if x.trainable != flag]
        new = [flip for flip in flipped if (id(flip[0]), flip[1]) not in run.flipped]
        if new:
            self._report_flips(run, model, new, when)
        if is_new or new:
            _watch(run, self.model, takes_new=is_new)

    def _report_flips(self, run: Run, model: keras.Model, new: list[_Flag], when: str) -> None:
        run.flipped |= {(id(x), flag) for x, flag in new}
        named = [f"{_name(x)} to {flag}" for x, flag in _outermost(new)]
        layers = tuple(f for f in run.flags if isinstance(f[0], keras.Layer))
        sync_jax_state_by(model, Flags(run.flags[len(layers) :], layers))
        runs_eagerly = keras.backend.backend() == "tensorflow" and model.run_eagerly
        consequence = _CONSEQUENCES["torch" if runs_eagerly else keras.backend.backend()]
        self._say(
            f"FreezeGuard: `trainable` was changed without a recompile {when}: "
            f"{first_few(named)}. {consequence} Call keras_freeze.recompile(model) "
            "after changing `trainable`, or leave it as it was."
        )

    def _check_weights(self, run: Run, when: str) -> None:
        self._compare(run, when, list(run.watched))
        for found in frozen_hidden_states(model_of(self)) if run.hidden else ():
            layer, before = run.hidden.get(id(found.layer), (found.layer, {}))
            now = _fingerprints(found)
            moved = [name for name in before.keys() & now.keys() if before[name] != now[name]]
            if moved:
                del run.hidden[id(layer)]
                self._say(
                    f"FreezeGuard: what {layer.name} ({type(layer).__name__}) holds beside its "
                    f"variables moved {when}, though it is frozen: {first_few(sorted(moved))}. "
                    "Keras can't freeze that. Let the layer train, or make it keep that itself, as "
                    "a torch module does whose BatchNorm is replaced by a frozen one."
                )

    def _check_unfrozen(self, run: Run, when: str) -> None:
        """Compare the weights that are watched no more, before the first step that trains them."""
        self._compare(run, when, [id(v) for v in model_of(self).trainable_variables])

    def _compare(self, run: Run, when: str, ids: list[int]) -> None:
        pairs = [run.watched[i] for i in ids if i in run.watched]
        if not pairs:
            return
        _ = self.model  # on JAX this brings the values back to the model
        moved = [weight for weight, before in pairs if fingerprint(weight.variable) != before]
        if not moved:
            return
        for weight in moved:
            del run.watched[id(weight.variable)]
            run.moved.add(id(weight.variable))
        named = [f"{w.variable.path} ({type(w.layer).__name__})" for w in moved]
        count = f"{len(moved)} frozen weight{'s' if len(moved) > 1 else ''}"
        self._say(
            f"FreezeGuard: {count} moved {when}: {first_few(named)}. A layer that assigns weights "
            "in `call` does so frozen or not: let it train, or replace it (SpectralNormalization "
            "by its inner `layer`). If `trainable` was changed after an earlier fit, call "
            "keras_freeze.recompile(model)."
        )

    def _say(self, message: str) -> None:
        if self.action == "raise":
            raise RuntimeError(message)
        warnings.warn(message, stacklevel=2)


def _watch(run: Run, model: keras.Model, *, takes_new: bool) -> None:
    """Watch what is frozen now; what was watched already is still compared with what it was."""
    before, run.watched = run.watched, {}
    for weight in frozen_weights(model):
        i = id(weight.variable)
        if i in before:
            run.watched[i] = before[i]
        elif takes_new and i not in run.moved:
            run.watched[i] = (weight, fingerprint(weight.variable))
    known = run.hidden
    run.hidden = {
        id(found.layer): known.get(id(found.layer), (found.layer, _fingerprints(found)))
        for found in frozen_hidden_states(model)
    }


def _fingerprints(found: HiddenState) -> dict[str, bytes]:
    return {name: xxhash.xxh3_128_digest(found.saved[name].tobytes()) for name in found.names}


def _with_objects(model: keras.Model, flags: Mapping[int, bool]) -> tuple[_Flag, ...]:
    every = (*every_layer(model), *model.weights)
    return tuple((x, flags.get(id(x), x.trainable)) for x in every)


def _outermost(flags: Iterable[_Flag]) -> Iterator[_Flag]:
    """Leave out what a layer around it says already."""
    said: set[tuple[int, bool]] = set()
    for x, flag in flags:  # containers come before contents, and layers before variables
        if (id(x), flag) not in said:
            yield x, flag
        if isinstance(x, keras.Layer):
            inside = (*every_layer(x), *x.weights)
            said |= {(id(inner), flag) for inner in inside}


def _name(x: Any) -> str:
    return str(x.name if isinstance(x, keras.Layer) else x.path)
