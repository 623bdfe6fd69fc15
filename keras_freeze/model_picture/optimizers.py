"""The optimizers of a model: the one that it is compiled with, and those that it holds itself."""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras

from keras_freeze.keras_internals.optimizers import inner_optimizers, learning_rate


def main_optimizer(model: keras.Model) -> Any | None:
    """Return the optimizer that a model is compiled with; if there is none, its only one."""
    compiled = getattr(model, "optimizer", None)
    if compiled is not None:
        return compiled
    found = list(_held_optimizers(model).values())
    return found[0] if len(found) == 1 else None


def own_optimizers(model: keras.Model) -> dict[str, Any]:
    """Return the optimizers that a model holds beside its main one.

    A model with a train step of its own may use them: a GAN has two.

    Returns:
        Dict by attribute, such as `generator_optimizer`, or `optimizers[0]` in a list.
    """
    main = main_optimizer(model)
    return {name: opt for name, opt in _held_optimizers(model).items() if opt is not main}


def optimizers_of(model: keras.Model) -> tuple[Any, ...]:
    """Return the optimizers that may train a model: the main one, and its own that are built."""
    main, own = main_optimizer(model), list(own_optimizers(model).values())
    # Beside its own ones a compiled one that nothing has built yet is not used.
    has_main = main is not None and (main.built or not own)
    return (*([main] if has_main else []), *(opt for opt in own if opt.built))


def learning_rate_of(model: keras.Model) -> float | None:
    """Return the rate that a compiled model trains at now, None if it has no single one."""
    return None if own_optimizers(model) else learning_rate(main_optimizer(model))


def _held_optimizers(model: keras.Model) -> dict[str, Any]:
    """Return the optimizers in attributes of a model or of its class, but for the compiled one."""
    compiled = getattr(model, "optimizer", None)
    known = set() if compiled is None else _with_inner(compiled)
    held: dict[str, Any] = {}
    for cls in reversed(type(model).__mro__):  # as a class overrides its bases
        if cls.__module__.partition(".")[0] != "keras":
            held |= vars(cls)
    held |= vars(model)
    found = {}
    for name, value in held.items():
        # What begins so is what TensorFlow saves, under names of its own.
        for label, opt in () if name.startswith("_self_") else _optimizers_in(name, value):
            if id(opt) not in known:
                found[label] = opt
                known |= _with_inner(opt)
    return found


#: As many objects of a list or dict are looked at: it may hold a user's data.
MAX_HELD = 100


def _optimizers_in(label: str, value: Any, depth: int = 3) -> Iterator[tuple[str, Any]]:
    if isinstance(value, keras.optimizers.Optimizer):
        yield label, value
    items: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        items = [(f"{label}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, types.SimpleNamespace):
        items = [(f"{label}.{key}", item) for key, item in vars(value).items()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        items = [(f"{label}[{n}]", item) for n, item in enumerate(value)]
    few = itertools.islice(items, MAX_HELD) if depth else ()
    for name, item in few:
        yield from _optimizers_in(name, item, depth - 1)


def _with_inner(optimizer: Any) -> set[int]:
    inner = (_with_inner(opt) for opt in inner_optimizers(optimizer))
    return {id(optimizer)}.union(*inner)
