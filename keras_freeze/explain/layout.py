"""Where in an output the channels are: at the end, or right after the samples."""

from __future__ import annotations

from typing import Any

import keras

from keras_freeze.checks import ArgumentError
from keras_freeze.explain.observation import Observation


def channel_axis(owner: str, seen: Observation, layer: Any, rank: int) -> int:
    """Return the axis of the channels, 1 or -1, of a layer's output or of the model's input.

    A layer says it; of one that doesn't, all layers of its model have to agree. An input has it
    where the first layer that says it has it.

    Args:
        owner: Str, in whose name errors are raised.
        seen: A call of the model.
        layer: One of its layers or operations; None for the input.
        rank: Int, of the output or input.

    Raises:
        ValueError: if that is not known.
    """
    if isinstance(layer, keras.layers.RNN) or rank < 3:
        return -1
    own = _axis_of(layer)
    if own is not None:
        return own
    called = [one for one, _ in seen.calls]
    axes = [axis for axis in map(_axis_of, called) if axis is not None]
    if layer is None:
        before = _until(called, lambda one: _axis_of(one) is not None) if axes else []
    else:
        before = _until(called, lambda one: one is layer)
    moved = [one for one in before if isinstance(one, keras.layers.Permute)]
    moved += [one for one in before if isinstance(one, keras.layers.Reshape) and 1 in axes]
    is_unclear = bool(moved) or (layer is not None and len(set(axes)) > 1)
    if is_unclear:
        what = "the input" if layer is None else f"layer {layer.name!r}"
        why = f"{moved[0].name!r} moves axes" if moved else "some layers have channels_first"
        raise ArgumentError(
            owner,
            "model" if layer is None else "layer",
            "show where its channels are",
            received=f"{what} of a model in which {why}",
            advice="Pass a layer that has a data_format, such as a convolution.",
        )
    if axes:
        return axes[0]
    is_first = rank == 4 and keras.config.image_data_format() == "channels_first"
    return 1 if is_first else -1


def _axis_of(layer: Any) -> int | None:
    # It does not matter to Flatten, so that nobody sets it.
    found = "" if isinstance(layer, keras.layers.Flatten) else getattr(layer, "data_format", "")
    return {"channels_first": 1, "channels_last": -1}.get(str(found))


def _until(called: list[Any], is_found: Any) -> list[Any]:
    """Return the layers that were called up to the first that is looked for, with that one."""
    end = next(n for n, one in enumerate(called) if is_found(one))
    return called[: end + 1]
