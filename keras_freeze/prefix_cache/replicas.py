"""Batches that a strategy of `tf.distribute` spreads over the replicas of a model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras


class OfDifferentShapes:
    """The rows of an input, where those of one replica have another shape than those of another."""


def has_replicas(model: keras.Model) -> bool:
    """Tell whether a model has several replicas, over which batches are spread."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy is not None and strategy.num_replicas_in_sync > 1


def is_spread(model: keras.Model) -> bool:
    """Tell whether a model is spread over devices, by TensorFlow or by Keras."""
    return has_replicas(model) or keras.distribution.distribution() is not None


def is_mirrored(model: keras.Model) -> bool:
    """Tell whether all replicas of a model are on devices of this process."""
    import tensorflow as tf

    return type(model.distribute_strategy) is tf.distribute.MirroredStrategy


def joined(model: keras.Model, x: Any) -> tuple[Any, tuple[int, ...]]:
    """Return the rows of all replicas one after the other on the host, and how many each has.

    Instead of rows whose shapes differ between replicas there is something without rows.
    """
    import tensorflow as tf

    replica_rows: tuple[int, ...] = ()

    def join(leaf: Any) -> Any:
        nonlocal replica_rows
        if leaf is None:
            return None
        own = model.distribute_strategy.experimental_local_results(leaf)
        try:
            with tf.device("CPU"):
                rows = tf.concat(own, axis=0)
        except (tf.errors.InvalidArgumentError, TypeError, ValueError):
            return OfDifferentShapes()
        replica_rows = tuple(map(len, own))
        return rows

    return keras.tree.map_structure(join, x), replica_rows


def divided(model: keras.Model, x: Any, replica_rows: Sequence[int]) -> Any:
    """Return rows, or a nest of such, with each replica's share on its device."""
    import tensorflow as tf

    strategy = model.distribute_strategy
    ends = list(itertools.accumulate(replica_rows))

    def divide(rows: Any) -> Any:
        def of(context: Any) -> Any:
            n = context.replica_id_in_sync_group
            with tf.device(strategy.extended.worker_devices[n]):
                return tf.identity(rows[ends[n] - replica_rows[n] : ends[n]])

        return None if rows is None else strategy.experimental_distribute_values_from_function(of)

    return keras.tree.map_structure(divide, x)


def on_replicas(model: keras.Model, function: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Return a function of rows as one whose rows each replica computes its share of.

    It is not compiled by XLA, which fails at variables that are on another replica's device.

    Args:
        model: `keras.Model`.
        function: Returns a list of rows.

    Returns:
        Function of how many rows each replica has, and of the arguments of `function`.
    """
    import tensorflow as tf

    @tf.function(reduce_retracing=True, autograph=False)  # in which replicas run side by side
    def run(*args: Any) -> Any:
        return model.distribute_strategy.run(function, args=args)

    def of_rows(replica_rows: Sequence[int], *args: Any) -> list[Any]:
        results = run(*(divided(model, arg, replica_rows) for arg in args))
        return [joined(model, rows)[0] for rows in results]

    return of_rows


def spec_of_one(spec: Any) -> Any:
    """Return the shapes and dtypes of a replica's rows from those of a batch."""
    import tensorflow as tf

    def first(leaf: Any) -> Any:
        return None if leaf is None else tf.nest.flatten(leaf, expand_composites=True)[0]

    return keras.tree.map_structure(first, spec)


def spec_of_all(spec: Any, like: Any) -> Any:
    """Return the shapes and dtypes of a batch from those of a replica's rows.

    Args:
        spec: `tf.TensorSpec`.
        like: Nest of the specs of other parts of such batches.
    """
    import tensorflow as tf

    other = next(leaf for leaf in keras.tree.flatten(like) if leaf is not None)
    return type(other)(*[spec] * len(tf.nest.flatten(other, expand_composites=True)))
