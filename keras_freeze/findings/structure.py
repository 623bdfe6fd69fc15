"""What a model's structure, flags, optimizer and dtype show before it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.checks import counted, first_few
from keras_freeze.engine import stale_flags
from keras_freeze.findings.finding import Finding, in_order
from keras_freeze.findings.setup import Setup, constant_rate
from keras_freeze.keras_internals.layers import is_adapted, sublayers
from keras_freeze.model_picture import (
    ModelPicture,
    all_untouched,
    every_layer,
    is_of_keras_hub,
    main_optimizer,
)
from keras_freeze.schedules import multipliers

# Fewer samples make statistics that are noise.
_MIN_BATCH = 8
# Rates from which on pretrained weights may be lost, and up to which a new head hardly learns.
_LARGE = {"adaptive": 1e-3, "sgd": 1e-1}
# An adaptive optimizer moves each weight by about its rate in a step. Small weights are lost by
# what is nothing to large ones, so that a rate is large only beside the root mean square of a
# group's kernels: from this part of it on, and from more where it is lower than the head's.
# By benchmarks/README.md, at one rate for all, VGG16 loses 12 points at 0.036 and 34 at 0.12, a
# transformer 17 at 0.07 and none at 0.03, two LSTMs none at 0.01.
_STEP, _LOWERED_STEP = 0.035, 0.06
_SMALL = {"adaptive": 1e-5, "sgd": 1e-4}
_ADAPTIVE = ("adam", "adamw", "nadam", "adamax", "rmsprop", "lion")


def of_structure(setup: Setup) -> tuple[Finding, ...]:
    """Return what is found without data."""
    untrained = of_pretrained_part(setup.picture)
    return in_order(
        [
            untrained,
            _nothing_or_all_frozen(setup),
            _new_and_frozen(setup),
            _moved_statistics(setup),
            None if untrained else _large_rate(setup),  # there is nothing to lose
            _small_rate(setup),
            _stale_flags(setup),
            _dropout(setup),
            _underflow(setup),
        ]
    )


def of_pretrained_part(picture: ModelPicture) -> Finding | None:
    """Return what is found where nothing seems to have trained what counts as pretrained.

    Args:
        picture: As `with_initial_values` returns it.
    """
    pretrained = picture.pretrained
    if pretrained is None or not all_untouched(picture, pretrained.layers):
        return None
    is_hub = any(is_of_keras_hub(layer, "Backbone") for layer in every_layer(picture.model))
    return Finding(
        "untrained backbone",
        f"Biases and statistics of {first_few(pretrained.names)} have the values that layers are "
        "made with: nothing seems to have trained them",
        "build it by from_preset, which loads weights"
        if is_hub
        else 'load its weights before the head is put on, as weights="imagenet" does, or '
        "backbone.load_weights(path)",
    )


def _nothing_or_all_frozen(setup: Setup) -> Finding | None:
    picture = setup.picture
    if not setup.training:
        return Finding(
            "everything frozen",
            f"No variable of {setup.model.name} trains",
            'kf.unfreeze(model, groups=["head"])',
        )
    pretrained, head = picture.pretrained, picture.groups[-1]
    is_known = pretrained is not None and not pretrained.is_assumed
    if setup.is_planned or not is_known or pretrained is None:
        return None
    if any(map(is_adapted, picture.layers)):  # LoRA has frozen what it adapts
        return None
    own = {id(v) for layer in pretrained.layers for v in picture.trainable_in[id(layer)]}
    if not own or not own <= setup.training or not all_untouched(picture, head.layers):
        return None
    return Finding(
        "nothing frozen",
        f"All of {first_few(pretrained.names)} trains from the first step, by gradients that come "
        "through a head at its initial values",
        "model.fit(..., callbacks=[kf.GradualUnfreeze()])",
    )


def _new_and_frozen(setup: Setup) -> Finding | None:
    picture = setup.picture
    if picture.pretrained is None or picture.pretrained.is_assumed or not setup.training:
        return None
    frozen = [
        layer.name
        for layer in picture.pretrained.new
        if picture.trainable_in[id(layer)]
        and not setup.trains(layer)
        and all_untouched(picture, [layer])
    ]
    if not frozen:
        return None
    return Finding(
        "new layers frozen",
        f"{counted(len(frozen), 'new layer')} ({first_few(frozen)}) {'is' * (len(frozen) == 1)}"
        f"{'are' * (len(frozen) > 1)} frozen at initial values",
        f"kf.unfreeze(model, layers={frozen[:3]!r})",
    )


def _moved_statistics(setup: Setup) -> Finding | None:
    size, layers = setup.batch_size, setup.batch_norms
    if size is None or size >= _MIN_BATCH or not layers:
        return None
    return Finding(
        "BatchNormalization in small batches",
        f"{counted(len(layers), 'pretrained BatchNormalization layer')} ({first_few(layers)}) "
        f"{'normalizes' if len(layers) == 1 else 'normalize'} by the statistics of batches of "
        f"{size}",
        'kf.GradualUnfreeze(batch_norm="frozen"), which is the default, or batch_size=32',
    )


def _large_rate(setup: Setup) -> Finding | None:
    picture = setup.picture
    is_known = picture.pretrained is not None and not picture.pretrained.is_assumed
    if not is_known or any(map(is_adapted, picture.layers)):
        return None
    limits = _large_rates(setup, setup.rates)
    compiled = constant_rate(setup.model)
    fast = [group for group in picture.groups[:-1] if group.name in limits]
    if not fast or compiled is None:
        return None
    rates, head = setup.rates, setup.rates.get(picture.groups[-1].name)
    most = " at most" * (len(fast) > 1)
    highest, lowest = max(rates[g.name] for g in fast), min(limits[g.name] for g in fast)
    scale = min(limits[group.name] / rates[group.name] for group in fast)
    cure = f"model.optimizer.learning_rate = {_rounded_down(compiled * scale):g}"
    lower = multipliers("default", picture.group_names)
    if highest == head and not _large_rates(setup, {n: compiled * m for n, m in lower.items()}):
        what = 'rates="default"' if setup.is_planned else "kf.GradualUnfreeze()"
        cure = f"{what}, which gives lower groups lower rates, or {cure}"
    return Finding(
        "large rate",
        f"Pretrained groups ({first_few([group.label for group in fast])}) train at {highest:.3g}"
        f"{most}: from {lowest:.2g} on they may lose what they have learned",
        cure,
    )


def _large_rates(setup: Setup, rates: Mapping[str, float]) -> dict[str, float]:
    """Return the rate from which on each pretrained group trains too fast, of those that do."""
    limit, found = _limit(setup, _LARGE), {}
    head = rates.get(setup.picture.groups[-1].name)
    for group in setup.picture.groups[:-1]:
        rate = rates.get(group.name)
        if limit is None or rate is None or rate < limit:
            continue
        own = limit
        if setup.optimizer != "sgd":
            part = _STEP if rate == head else _LOWERED_STEP
            own = max(limit, part * _size_of_kernels(group.variables))
        if rate >= own:
            found[group.name] = own
    return found


def _size_of_kernels(variables: Sequence[keras.Variable]) -> float:
    """Return the root mean square of the kernels among variables; of all, where there are none."""
    kernels = [v for v in variables if len(v.shape) > 1] or list(variables)
    values = [np.asarray(keras.ops.convert_to_numpy(v), "float64") for v in kernels]
    count = sum(value.size for value in values)
    return math.sqrt(sum(float(np.square(value).sum()) for value in values) / max(1, count))


def _rounded_down(rate: float) -> float:
    """Return a rate with one digit that is not higher.

    Example:
        >>> _rounded_down(0.00387), _rounded_down(0.01)
        (0.003, 0.009)
    """
    size = 10.0 ** math.floor(math.log10(rate))
    lower = (math.ceil(rate / size) - 1) * size if rate > size else 0.9 * size
    return float(f"{lower:.1g}")


def _small_rate(setup: Setup) -> Finding | None:
    head, limit = setup.picture.groups[-1], _limit(setup, _SMALL)
    rate = setup.rates.get(head.name)
    if rate is None or limit is None or rate > limit or rate <= 0:
        return None
    if not all_untouched(setup.picture, head.layers):
        return None  # the second step of a training, which is as it should be
    return Finding(
        "small rate",
        f"The new layers, at initial values, train at {rate:g}, a rate for pretrained ones",
        "model.compile(keras.optimizers.Adam(1e-3), ...) with kf.GradualUnfreeze(), whose group "
        "rates keep those of the backbone small",
    )


def _limit(setup: Setup, limits: dict[str, float]) -> float | None:
    if setup.optimizer == "sgd":
        return limits["sgd"]
    return limits["adaptive"] if setup.optimizer in _ADAPTIVE else None


def _stale_flags(setup: Setup) -> Finding | None:
    changed = () if setup.is_planned else stale_flags(setup.model)
    if not changed:
        return None
    return Finding(
        "flags changed after compile",
        f"trainable of {first_few(changed)} was changed after the train step was made, which does "
        "not see it",
        "kf.recompile(model)",
    )


def _dropout(setup: Setup) -> Finding | None:
    picture = setup.picture
    if picture.pretrained is None or not setup.training:
        return None
    layers: list[keras.Layer] = []
    for group in picture.groups[:-1]:
        if any(id(v) in setup.training for v in group.variables):
            break  # what comes after is no fixed function anyway
        layers += group.layers
    # A Dropout above the last of them belongs to what trains.
    while layers and not layers[-1].weights:
        del layers[-1]
    parts = [part for layer in layers for part in picture.layers_in[id(layer)]]
    dropping = [part for part in parts if _drops(part)]
    found = list(dict.fromkeys(part.name for part in dropping))
    if not found:
        return None
    return Finding(
        "Dropout in the frozen part",
        f"{counted(len(found), 'layer')} with dropout ({first_few(found)}) among frozen ones: in "
        "training it still drops, so that frozen features are noisy and can't be cached",
        f"{_code_of(setup.model, dropping[0])}.rate = 0.0 and so on, then kf.recompile(model)",
    )


def _code_of(layer: keras.Layer, part: keras.Layer) -> str:
    """Return the code that gets a part of a layer by way of the layers that it is in."""
    text = "model"
    while layer is not part:
        inner = next(x for x in sublayers(layer) if any(e is part for e in every_layer(x)))
        is_model = isinstance(layer, keras.Model)
        step = f".get_layer({inner.name!r})" if is_model else _attribute(layer, inner)
        if step is None:
            return f"next(one for one in model._flatten_layers() if one.name == {part.name!r})"
        text, layer = text + step, inner
    return text


def _attribute(layer: keras.Layer, inner: keras.Layer) -> str | None:
    """Return the code that gets a sublayer from a layer of the user's own; None if not known."""
    for name, value in vars(layer).items():
        if name.startswith("_"):
            continue
        if value is inner:
            return f".{name}"
        if isinstance(value, (list, tuple)):
            value = dict(enumerate(value))
        for key, one in value.items() if isinstance(value, dict) else ():
            if one is inner:
                return f".{name}[{key!r}]"
    return None


def _drops(layer: keras.Layer) -> bool:
    """Tell whether a layer is a Dropout that drops single values.

    One that leaves out the whole of a sample's branch is stochastic depth, a part of the
    architecture, as in EfficientNet.
    """
    kinds = (keras.layers.Dropout, keras.layers.AlphaDropout, keras.layers.GaussianDropout)
    if not isinstance(layer, (*kinds, keras.layers.SpatialDropout1D)) or not layer.rate:
        return False
    shape: Any = getattr(layer, "noise_shape", None)
    return not (shape and all(size == 1 for size in shape[1:]))


def _underflow(setup: Setup) -> Finding | None:
    picture, model = setup.picture, setup.model
    variables = [weight.variable for weight in picture.weights]
    training = [v.path for v in variables if v.dtype == "float16" and id(v) in setup.training]
    if training:
        return Finding(
            "float16 weights",
            f"{counted(len(training), 'weight')} ({first_few(training, 2)}) "
            f"{'is' if len(training) == 1 else 'are'} stored as float16, to which a small update "
            "adds nothing",
            'keras.config.set_dtype_policy("mixed_float16") before the model is built',
        )
    computes = any(_trains_in_float16(setup, layer) for layer in picture.opened)
    optimizer = main_optimizer(model)
    is_scaled = optimizer is None or isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if not computes or is_scaled or not getattr(model, "compiled", False):
        return None
    return Finding(
        "float16 without loss scaling",
        "Layers compute in float16 while the loss is not scaled: small gradients become zero",
        "model.compile(keras.optimizers.LossScaleOptimizer(optimizer), ...)",
    )


def _trains_in_float16(setup: Setup, layer: keras.Layer) -> bool:
    return bool(layer.compute_dtype == "float16" and setup.trains(layer))
