"""`freeze`, `unfreeze`, `unfreeze_only`: set which part of a model trains, named in many ways."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_freeze import policies
from keras_freeze.checks import (
    ArgumentError,
    ArgumentTypeError,
    counted,
    first_few,
    is_int,
)
from keras_freeze.engine import transition
from keras_freeze.groups import Backbone, names_of, with_groups
from keras_freeze.model_picture import (
    ModelPicture,
    all_untouched,
    check_model,
    count_params,
    every_layer,
    read_model,
    with_initial_values,
)
from keras_freeze.policies import (
    BatchNormMode,
    Flags,
    Selection,
    check_batch_norm,
    everything,
    phase_flags,
    relative_flags,
    warn_of_hidden_state,
)
from keras_freeze.reports import parameter_counts


@dataclasses.dataclass(frozen=True, repr=False)
class FreezeResult:
    """What a call of `freeze`, `unfreeze` or `unfreeze_only` changed.

    Attributes:
        frozen: Paths of the variables that no longer train.
        unfrozen: Paths of the variables that train now and did not before.
        changed_params: Int, the parameters in both.
        trainable_params: Int, parameters of the model that train now.
        non_trainable_params: Int, those that don't.
        recompiled: Bool, whether the train step will be traced again.
        training_batch_norms: Names of the `BatchNormalization` layers whose statistics training
            still moves.
    """

    frozen: tuple[str, ...]
    unfrozen: tuple[str, ...]
    changed_params: int
    trainable_params: int
    non_trainable_params: int
    recompiled: bool
    training_batch_norms: tuple[str, ...] = ()

    @property
    def thawed(self) -> tuple[str, ...]:
        """The name of `unfrozen` in 0.1; deprecated, and gone in 0.3."""
        warnings.warn(
            "FreezeResult.thawed is now called FreezeResult.unfrozen.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.unfrozen

    def __repr__(self) -> str:
        return (
            f"FreezeResult(frozen={len(self.frozen)}, unfrozen={len(self.unfrozen)}, "
            f"changed_params={self.changed_params:,}, trainable_params={self.trainable_params:,}, "
            f"non_trainable_params={self.non_trainable_params:,}, recompiled={self.recompiled})"
        )

    def __str__(self) -> str:
        return (
            f"froze {len(self.frozen)} and unfroze {len(self.unfrozen)} variables "
            f"({self.changed_params:,} parameters); {self.trainable_params:,} train, "
            f"{self.non_trainable_params:,} are frozen{self._batch_norms}"
        )

    @property
    def _batch_norms(self) -> str:
        if not self.frozen or not self.training_batch_norms:
            return ""
        layers = counted(len(self.training_batch_norms), "BatchNormalization layer")
        return f"; {layers} still train{'s' if len(self.training_batch_norms) == 1 else ''}"

    def _repr_html_(self) -> str:
        lists = []
        for name, paths in (
            ("frozen", self.frozen),
            ("unfrozen", self.unfrozen),
            ("BatchNormalization that trains", self.training_batch_norms),
        ):
            if paths:
                lists.append(f"<br>{name}: {html.escape(', '.join(paths))}")
        return f"<details><summary>{self}</summary>{''.join(lists)}</details>"


def freeze(
    model: keras.Model,
    policy: policies.FreezePolicy | policies.Predicate | keras.Layer | None = None,
    /,
    *,
    first: int | None = None,
    groups: int | str | Sequence[str] | None = None,
    before: str | int | None = None,
    layers: Sequence[int | str] | None = None,
    matching: str | None = None,
    weights: str | Sequence[str] = "all",
    batch_norm: BatchNormMode = "frozen",
    backbone: Backbone | None = None,
) -> FreezeResult:
    """Freeze part of a model; what is not named stays as it is.

    Name the part by one of `policy`, `first`, `groups`, `before`, `layers` and `matching`.
    `freeze(backbone)`, which names none, freezes all of a model that is not compiled, before a
    head is put on it. A compiled model is recompiled, keeping its optimizer's state. Frozen
    variables keep their values to the last bit until they are unfrozen.

    Args:
        model: `keras.Model`, built; compiled or not.
        policy: `keras_freeze.policies.FreezePolicy`, a callable `(variable, layer) -> bool`, or
            a layer or model that `model` was built from, nested or inlined.
        first: Int, in layers. The first ones, as `model.layers[:first]`, nested models opened;
            a negative number leaves out that many at the end.
        groups: Int (that many layer groups from the input), a group's name, or names.
        before: Str, a layer's or group's name: all that comes before it. Or an int, in groups.
        layers: Sequence of layer indices and names.
        matching: Str, a regular expression, searched in layer names and variable paths.
        weights: Which variables of these: `"all"`, or a name or names of variables such as
            `"kernel"`, `"recurrent_kernel"`, `"bias"`, `"gamma"`. Defaults to `"all"`.
        batch_norm: What happens to the `BatchNormalization` layers named. Defaults to
            `"frozen"`; for freezing, `"follow"` and `"statistics"` have the same effect. `"train"`
            leaves them training inside the frozen part.
        backbone: What is pretrained, as for `layer_groups`: it decides about the groups. Defaults
            to None, to be found.

    Returns:
        `FreezeResult`, what changed.

    Raises:
        ValueError: if more than one way is used, or none for a compiled model; if a name or
            pattern matches nothing.

    Example:
        >>> import keras_freeze as kf
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)]
        ... )
        >>> print(kf.freeze(model, layers=["low"]))
        froze 2 and unfroze 0 variables (15 parameters); 8 train, 15 are frozen
    """
    ways: dict[str, Any] = {"first": first, "groups": groups, "before": before}
    ways |= {"layers": layers, "matching": matching}
    return _change("freeze", model, policy, ways, weights, batch_norm, backbone)


def unfreeze(
    model: keras.Model,
    policy: policies.FreezePolicy | policies.Predicate | keras.Layer | None = None,
    /,
    *,
    first: int | None = None,
    groups: int | str | Sequence[str] | None = None,
    before: str | int | None = None,
    layers: Sequence[int | str] | None = None,
    matching: str | None = None,
    weights: str | Sequence[str] = "all",
    batch_norm: BatchNormMode | None = None,
    backbone: Backbone | None = None,
) -> FreezeResult:
    """Unfreeze part of a model; what is not named stays as it is.

    The counterpart of `freeze`, with the same ways to say which part; `unfreeze(model)` unfreezes
    everything. Variables that a layer made not to be trained (moving statistics, counters) never
    are.

    Args:
        model: `keras.Model`, built; compiled or not.
        policy: As for `freeze`.
        first: As for `freeze`.
        groups: As for `freeze`; an int counts from the input here too.
        before: As for `freeze`.
        layers: As for `freeze`.
        matching: As for `freeze`.
        weights: As for `freeze`.
        batch_norm: What happens to the `BatchNormalization` layers named that belong to the
            pretrained part (all groups but the last): `"frozen"` leaves them as they are, as is
            advised for fine-tuning; `"follow"` and `"train"` unfreeze them with their statistics;
            `"statistics"` unfreezes gamma and beta and keeps moving mean and variance fixed.
            Defaults to `"frozen"` where a part is named, and else to `"follow"`.
        backbone: As for `freeze`.

    Returns:
        `FreezeResult`, what changed.

    Raises:
        ValueError: as for `freeze`.

    Example:
        >>> import keras_freeze as kf
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)],
        ...     name="net",
        ... )
        >>> result = kf.freeze(model, matching=".")
        >>> kf.unfreeze(model, before="head", weights="bias").unfrozen
        ('net/low/bias',)
    """
    ways: dict[str, Any] = {"first": first, "groups": groups, "before": before}
    ways |= {"layers": layers, "matching": matching}
    if batch_norm is None:
        names_none = policy is None and all(value is None for value in ways.values())
        batch_norm = "follow" if names_none else "frozen"
    return _change("unfreeze", model, policy, ways, weights, batch_norm, backbone)


def unfreeze_only(
    model: keras.Model,
    policy: policies.FreezePolicy | policies.Predicate | keras.Layer | None = None,
    /,
    *,
    first: int | None = None,
    groups: int | str | Sequence[str] | None = None,
    before: str | int | None = None,
    layers: Sequence[int | str] | None = None,
    matching: str | None = None,
    weights: str | Sequence[str] = "all",
    batch_norm: BatchNormMode = "statistics",
    backbone: Backbone | None = None,
) -> FreezeResult:
    """Train the part that is named and nothing else: all that is not named freezes.

    For training biases alone (BitFit), norms or kernels alone: `weights=` takes the names of
    variables, in the part that is named by one of the other arguments, else in the whole model.

    Args:
        model: `keras.Model`, built; compiled or not.
        policy: As for `freeze`.
        first: As for `freeze`.
        groups: As for `freeze`; an int counts from the input here too.
        before: As for `freeze`.
        layers: As for `freeze`.
        matching: As for `freeze`.
        weights: As for `freeze`.
        batch_norm: What happens to the `BatchNormalization` layers of the pretrained part:
            `"statistics"` (default) trains what is named of gamma and beta and keeps the moving
            statistics fixed; `"follow"` moves these where gamma or beta trains; `"frozen"` freezes
            the layers, named or not.
        backbone: As for `freeze`.

    Returns:
        `FreezeResult`, what changed.

    Raises:
        ValueError: as for `freeze`; if nothing would train.

    Example:
        >>> import keras_freeze as kf
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)],
        ...     name="net",
        ... )
        >>> print(kf.unfreeze_only(model, weights="bias"))
        froze 2 and unfroze 0 variables (18 parameters); 5 train, 18 are frozen

    Reference:
        - [Ben Zaken et al., 2022](https://arxiv.org/abs/2106.10199): BitFit.
    """
    ways: dict[str, Any] = {"first": first, "groups": groups, "before": before}
    ways |= {"layers": layers, "matching": matching}
    return _change("unfreeze_only", model, policy, ways, weights, batch_norm, backbone)


#: The ways that count layers or groups instead of naming them.
_COUNTED = ("first", "groups", "before")
#: The policy that each way of naming a part makes of its argument.
_WAYS: dict[str, type[policies.FreezePolicy]] = {
    "first": policies.FreezeFirst,
    "groups": policies.FreezeGroups,
    "before": policies.FreezeBefore,
    "layers": policies.FreezeLayers,
    "matching": policies.FreezeMatching,
}


def _select(
    owner: str,
    picture: ModelPicture,
    policy: policies.FreezePolicy | policies.Predicate | keras.Layer | None,
    ways: Mapping[str, Any],
    weights: str | Sequence[str],
) -> Selection:
    given = {name: value for name, value in ways.items() if value is not None}
    if len(given) + (policy is not None) > 1:
        received = [*(["a policy"] if policy is not None else []), *(f"{n}=" for n in given)]
        raise ArgumentError(
            owner,
            "",
            "get at most one of a policy, first=, groups=, before=, layers= and matching=",
            received=" and ".join(received),
            advice="Combine policies with |, & and ~.",
        )
    if not given:
        part = _named_by_position(owner, picture, policy, weights)
        selection = part.select_in(picture)
    else:
        ((way, value),) = given.items()
        with _as_written(_WAYS[way], owner, way):
            part = _WAYS[way](value)  # type: ignore[call-arg]  # each takes one
            selection = part.select_in(picture)
    if weights == "all":
        return selection
    policies.check_weights(owner, weights)
    with _as_written(policies.FreezeWeights, owner, "weights"):
        selection = policies.FreezeWeights(weights, part).select_in(picture)
    if owner != "freeze" and not selection.variables:
        raise ArgumentError(
            owner,
            "weights",
            "name variables that LoRA has not frozen",
            value=weights,
            advice='A callback with lora="with_base" unfreezes them with their adapters.',
        )
    return selection


def _named_by_position(
    owner: str,
    picture: ModelPicture,
    policy: policies.FreezePolicy | policies.Predicate | keras.Layer | None,
    weights: str | Sequence[str],
) -> policies.FreezePolicy:
    """Return the policy of a call that names a part without a keyword, or none at all."""
    model = picture.model
    names_none = policy is None and weights == "all"
    if names_none and owner == "freeze" and getattr(model, "compiled", False):
        raise ArgumentError(
            owner,
            "",
            "be told which part of a compiled model to freeze, since it is there to be trained",
            received=f"model={model.name!r} and no part of it",
            advice="Name the part, such as groups=1 or freeze(model, backbone); or write "
            'matching="." for everything.',
        )
    if is_int(policy):
        raise ArgumentTypeError(
            owner,
            "policy",
            "be a freeze policy, or a layer or model that the model was built from",
            received=f"{policy}, which may count layers or groups",
            advice=f"Write first={policy} for layers, or groups={policy} for layer groups.",
        )
    if policy is None or isinstance(policy, keras.Layer):
        return _Part(owner, policy or model)
    return policies.as_policy(policy)


@dataclasses.dataclass(frozen=True)
class _Part(policies.FreezePolicy):
    """Selects all that a model has of a layer or model from which it was built."""

    owner: str
    part: keras.Layer

    def select_in(self, picture: ModelPicture) -> Selection:
        inside = [layer for layer in every_layer(self.part) if id(layer) in picture.layers_in]
        if self.part is not picture.model and not any(layer.weights for layer in inside):
            raise ArgumentError(
                self.owner,
                "policy",
                "be a part of the model that has weights, if it is a layer or model",
                received=f"{self.part.name!r}, of which model {picture.model.name!r} has none",
                advice="Take it from model.layers, or the object that the model was built from.",
            )
        return policies.of_layers(picture, inside)


@contextlib.contextmanager
def _as_written(kind: type[policies.FreezePolicy], owner: str, argument: str) -> Iterator[None]:
    """Make errors name the call and argument that the user wrote, not the policy."""
    try:
        yield
    except (ArgumentError, ArgumentTypeError) as error:
        if error.owner != kind.__name__:
            raise
        raise error.of(owner, argument) from None


def _warn_of_initial_values(owner: str, picture: ModelPicture, frozen: Selection) -> None:
    """Warn if new layers freeze among trained ones, where they were counted and not named."""
    inside = [
        layer
        for layer in picture.opened
        if {id(variable) for variable in picture.trainable_in[id(layer)]} & frozen.variables
    ]
    new = [layer.name for layer in inside if all_untouched(picture, [layer])]
    if new and not all_untouched(picture, inside):
        warnings.warn(
            f"{owner}: {counted(len(new), 'layer')} of model {picture.model.name!r} "
            f"({first_few(new)}) {'is' if len(new) == 1 else 'are'} frozen at initial values that "
            "nothing has trained. Pass backbone= to say what is pretrained, or unfreeze what is "
            "new.",
            stacklevel=4,
        )


def _check_trains(owner: str, picture: ModelPicture, flags: Flags) -> None:
    if not any(trains for _, trains in flags.variables):
        raise ArgumentError(
            owner,
            "",
            "name something that can train",
            received=f"a part of model {picture.model.name!r} in which nothing can",
            advice='Name more, or pass batch_norm="follow" for BatchNormalization layers.',
        )


def _change(
    owner: str,
    model: keras.Model,
    policy: policies.FreezePolicy | policies.Predicate | keras.Layer | None,
    ways: Mapping[str, Any],
    weights: str | Sequence[str],
    batch_norm: BatchNormMode,
    backbone: Backbone | None,
) -> FreezeResult:
    check_batch_norm(owner, batch_norm)
    check_model(owner, model)
    picture = with_initial_values(read_model(model, names_of(owner, backbone)))
    if backbone is not None:
        picture = with_groups(picture)
    selection = _select(owner, picture, policy, ways, weights)
    if owner == "unfreeze_only":
        picture = picture if picture.groups else with_groups(picture)
        flags = phase_flags(picture, everything(picture) - selection, batch_norm)
        _check_trains(owner, picture, flags)
    else:
        flags = relative_flags(picture, selection, owner == "unfreeze", batch_norm)
    before = [variable.trainable for variable, _ in flags.variables]
    recompiled = transition(model, flags)
    frozen = everything(picture) - selection if owner == "unfreeze_only" else selection
    if owner != "unfreeze":
        warn_of_hidden_state(owner, picture, frozen)
        is_counted = owner == "unfreeze_only" or any(ways[way] is not None for way in _COUNTED)
        if is_counted and backbone is None:
            _warn_of_initial_values(owner, picture, frozen)
    changed = [
        (variable, now)
        for (variable, now), was in zip(flags.variables, before, strict=True)
        if now != was
    ]
    trainable_params, non_trainable_params = parameter_counts(model)
    return FreezeResult(
        frozen=tuple(variable.path for variable, now in changed if not now),
        unfrozen=tuple(variable.path for variable, now in changed if now),
        changed_params=count_params(variable for variable, _ in changed),
        trainable_params=trainable_params,
        non_trainable_params=non_trainable_params,
        recompiled=recompiled,
        training_batch_norms=tuple(
            layer.name for layer in picture.batch_norms_in([model]) if layer.trainable
        ),
    )
