"""Gradual unfreezing that stops at the freeze depth of a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras

from keras_freeze.callbacks.gradual_unfreeze import GradualUnfreeze
from keras_freeze.groups import layer_groups
from keras_freeze.model_picture import GroupNames
from keras_freeze.policies.selection import of_groups
from keras_freeze.schedules.phases import FreezeSchedule
from keras_freeze.tuning import frozen_depth


class AboveDepth(GradualUnfreeze):
    """A `GradualUnfreeze` that never thaws what `freeze_depth` has frozen in its model.

    The schedule is one for the layer groups above; a mapping is for all groups.
    """

    def _groups_that_stay(self, model: keras.Model) -> int:
        depth = frozen_depth.depth_of(model)
        if depth is None:
            return 0
        frozen = depth.policy.select(model)
        groups = layer_groups(model, self.groups)
        thaws = ((of_groups(model, [group]) - frozen).variables for group in groups)
        return next((n for n, variables in enumerate(thaws) if variables), len(groups) - 1)

    def _plan_for(self, model: keras.Model, epochs: int) -> FreezeSchedule:
        depth = frozen_depth.depth_of(model)
        if depth is None:
            return super()._plan_for(model, epochs)
        names = GroupNames.of(layer_groups(model, self.groups))
        is_for_all = isinstance(self.schedule, Mapping)
        plan = self._plan(names if is_for_all else names[self._groups_that_stay(model) :], epochs)
        phases = [
            dataclasses.replace(phase, frozen=phase.policy(self.groups) | depth.policy)
            for phase in plan.phases
        ]
        return dataclasses.replace(plan, phases=phases)
