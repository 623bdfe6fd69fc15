"""What the layer groups of a model do at present, by the flags of their variables."""

from __future__ import annotations

from keras_freeze.live.status import GroupState, GroupStatus
from keras_freeze.model_picture import ModelPicture, learning_rate_of
from keras_freeze.policies import everything


def group_states(picture: ModelPicture) -> dict[str, GroupState]:
    """Return by name what each group does.

    `BatchNormalization` layers, which may have a mode of their own, and what never trains make no
    group one that trains in part.
    """
    norms = picture.batch_norms_in([picture.model])
    apart = picture.never_trains.union(id(v) for layer in norms for v in layer.weights)
    able = everything(picture).variables
    found = {}
    for group in picture.groups:
        own = [v for v in group.variables if id(v) in able]
        flags = [v.trainable for v in own if id(v) not in apart] or [v.trainable for v in own]
        if not any(flags):
            found[group.name] = GroupState.FROZEN
        else:
            found[group.name] = GroupState.TRAINS if all(flags) else GroupState.IN_PART
    return found


def groups_of(picture: ModelPicture) -> tuple[GroupStatus, ...]:
    """Return the status of each group of a model whose groups train at one learning rate."""
    states, rate = group_states(picture), learning_rate_of(picture.model)
    return tuple(
        GroupStatus(
            group.label,
            group.total_params,
            states[group.name],
            None if states[group.name] is GroupState.FROZEN else rate,
        )
        for group in picture.groups
    )
