"""Private state of a model's trainer: the flags it was compiled with, and where a fit begins."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras

from keras_freeze.keras_internals.attributes import own_attribute
from keras_freeze.keras_internals.required import require

require("find a callback's model", "keras", keras.callbacks.Callback(), "_model")


def flags_at_compile(model: keras.Model) -> Mapping[keras.Layer, bool]:
    """Return the flags that a model's layers had when it was compiled."""
    require("see how a model was compiled", "keras", model, "_compiled_trainable_state")
    return model._compiled_trainable_state


def lasting_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """Return the metrics of a model that may count over several epochs.

    Those are of the user's own classes: Keras's reset themselves in every epoch.
    """
    require("keep metrics", "keras", model, "_compile_metrics")
    container = model._compile_metrics
    found = [metric for metric in model.metrics if metric is not container]
    if container is not None:
        require("keep metrics", "keras", container, "_user_metrics", "_user_weighted_metrics")
        given = (container._user_metrics, container._user_weighted_metrics)
        found += [m for m in keras.tree.flatten(given) if isinstance(m, keras.metrics.Metric)]
    own = [metric for metric in found if not type(metric).__module__.startswith("keras.")]
    return list(dict.fromkeys(own))


def compiled_memento(model: keras.Model) -> Callable[[], None]:
    """Return a function that gives a compiled loss and metrics their present state back.

    A first fit builds them from a batch, which it reads, and draws an order of samples for.
    """
    require("undo a trial", "keras", model, "_compile_metrics", "_compile_loss")
    parts = [part for part in (model._compile_metrics, model._compile_loss) if part is not None]
    kept = [dict(vars(part)) for part in parts]
    lists = [
        (value, list(value)) for own in kept for value in own.values() if isinstance(value, list)
    ]

    def restore() -> None:
        for part, own in zip(parts, kept, strict=True):
            vars(part).clear()
            vars(part).update(own)
        for value, items in lists:
            list.__setitem__(value, slice(None), items)

    return restore


def begin_fit_at(model: keras.Model, epoch: int | None) -> None:
    """Make the fit that is about to begin start at an epoch; None for that of its argument."""
    require("resume a fit", "keras", model, "_initial_epoch")
    model._initial_epoch = epoch


def model_of(callback: keras.callbacks.Callback) -> keras.Model:
    """Return a callback's model without synchronizing it.

    On JAX, reading `callback.model` copies the values of a running fit back to the model, pairing
    them with its variables by their current flags.
    """
    return callback._model


def sync_jax_state(model: keras.Model) -> None:
    """Copy a running fit's values back to the model, where Keras holds them elsewhere (JAX).

    Keras pairs variables and values by the current flags.
    """
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def has_traced_step(model: keras.Model) -> bool:
    """Tell whether a model's train step is a `tf.function`, which keeps what it has traced."""
    return hasattr(model.train_step, "get_concrete_function")


def make_function(
    model: keras.Model,
    kind: str,
    make: Callable[..., Any],
    state: Sequence[Sequence[Any]] | None = None,
) -> None:
    """Make a model's train, test or predict function anew, without a trace of the one before.

    JAX takes a bound method that equals an earlier one for the same function, and uses its trace as
    long as anything holds that: an exception's traceback, for one.

    Args:
        model: `keras.Model`.
        kind: Str: "train", "test" or "predict".
        make: The model's method that makes the function, called with `force=True`.
        state: What JAX's trainer passes into a step, in the middle of an epoch. Defaults to None:
            the variables hold their values.
    """
    own = getattr(model, f"{kind}_step")

    def step(*args: Any, **settings: Any) -> Any:
        return own(*args, **settings)

    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "jax":
            stack.enter_context(own_attribute(model, f"{kind}_step", step))
        if state is not None:
            stack.enter_context(_spread_as(model, state))
        make(force=True)


def _spread_as(model: keras.Model, state: Sequence[Sequence[Any]]) -> AbstractContextManager[None]:
    """Let Keras read from a state over which devices it is spread, not from empty variables."""
    require("cut a step", "keras", model, "_get_state_sharding_spec")
    spec = [[value.sharding for value in values] for values in state]
    if len(spec) == 3:  # a step of validation has no optimizer
        spec.insert(2, [])
    return own_attribute(model, "_get_state_sharding_spec", lambda: tuple(spec))
