"""What stays frozen, whatever a schedule unfreezes: by `keep_frozen=`, or since LoRA adapts it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import keras

from keras_freeze.checks import ArgumentError, ArgumentTypeError
from keras_freeze.groups import with_groups
from keras_freeze.keras_internals.layers import is_adapted
from keras_freeze.model_picture import ModelPicture, every_layer, is_of_keras_hub
from keras_freeze.policies.base import FreezePolicy, as_policy
from keras_freeze.policies.by_name import FreezeMatching
from keras_freeze.policies.selection import Selection, of_groups, of_layers

KeepFrozen: TypeAlias = FreezePolicy | Callable[..., bool] | str | Sequence[str]


def with_kept_frozen(
    picture: ModelPicture, owner: str, keep_frozen: KeepFrozen | None
) -> ModelPicture:
    """Return a picture in which something is frozen for good.

    Args:
        picture: The picture of a model, with its groups.
        owner: Str, in whose name errors are raised.
        keep_frozen: Names of groups or layers, patterns as for `FreezeMatching`, or a policy;
            None for nothing.

    Raises:
        ValueError: if a name or pattern matches nothing.
    """
    if keep_frozen is None:
        return picture
    chosen = keep_frozen_policy(owner, keep_frozen).select_in(picture)
    ids = set(chosen.variables | chosen.layers)
    for layer in picture.batch_norms_in([picture.model]):
        own = {id(variable) for variable in picture.trainable_in[id(layer)]}
        ids |= {id(layer)} if own and own <= ids else set()
    return dataclasses.replace(picture, never_trains=picture.never_trains | ids)


def kept_by_lora(picture: ModelPicture, frozen_here: Collection[int]) -> frozenset[int]:
    """Return the ids of the variables that are frozen since LoRA adapts the model.

    Of an adapted layer, what is frozen stays so, but for its LoRA weights. Where `enable_lora` of
    a KerasHub backbone has frozen all that it does not adapt, that stays so too.

    Args:
        picture: The picture of a model, by its present flags.
        frozen_here: Ids of the variables that were frozen by this package, which says nothing.
    """
    kept: set[int] = set()
    for weight in picture.weights:
        variable, is_of_lora = weight.variable, weight.variable.name.startswith("lora_")
        is_of_layer = is_adapted(weight.layer) and weight.potentially_trainable and not is_of_lora
        if is_of_layer and not variable.trainable and id(variable) not in frozen_here:
            kept.add(id(variable))
    for backbone in (x for x in picture.layers if is_of_keras_hub(x, "Backbone")):
        layers = picture.layers_in[id(backbone)]
        others = [w.variable for w in picture.weights_in[id(backbone)] if not is_adapted(w.layer)]
        # That method, and no call on a frozen layer, leaves what it adapts trainable.
        is_adapted_whole = any(layer.trainable for layer in layers if is_adapted(layer))
        if is_adapted_whole and not any(variable.trainable for variable in others):
            kept.update(id(variable) for variable in others)
            kept.update(id(x) for x in layers if not any(map(is_adapted, every_layer(x))))
    return frozenset(kept)


def keep_frozen_policy(owner: str, keep_frozen: Any) -> FreezePolicy:
    """Return what is to stay frozen as a policy; raise a `TypeError` if it can't be one."""
    names = (keep_frozen,) if isinstance(keep_frozen, str) else keep_frozen
    if isinstance(names, Sequence) and names and all(isinstance(n, str) and n for n in names):
        return _Named(owner, tuple(names))
    is_layer = isinstance(keep_frozen, keras.Layer | type)
    if isinstance(keep_frozen, FreezePolicy) or (callable(keep_frozen) and not is_layer):
        return as_policy(keep_frozen)
    raise ArgumentTypeError(
        owner,
        "keep_frozen",
        "be names or patterns of groups or layers, or a freeze policy or callable "
        "(variable, layer) -> bool",
        value=keep_frozen,
    )


@dataclasses.dataclass(frozen=True)
class _Named(FreezePolicy):
    """Selects groups by their names, else layers by theirs, else what a pattern matches."""

    owner: str
    names: tuple[str, ...]

    def select_in(self, picture: ModelPicture) -> Selection:
        picture = picture if picture.groups else with_groups(picture)
        chosen = Selection()
        for name in self.names:
            groups = [group for group in picture.groups if name in (group.name, group.first_layer)]
            layers = [x for x in picture.layers if x.name == name and x is not picture.model]
            if groups:
                chosen |= of_groups(picture, groups)
            elif layers:
                chosen |= of_layers(picture, layers)
            else:
                chosen |= self._matching(picture, name)
        return chosen

    def _matching(self, picture: ModelPicture, pattern: str) -> Selection:
        try:
            return FreezeMatching(pattern).select_in(picture)
        except ArgumentError as error:
            raise error.of(self.owner, "keep_frozen") from None
