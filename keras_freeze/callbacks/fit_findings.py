"""What a check finds of a fit that is about to begin: of its plan, and of the first samples."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np

from keras_freeze.callbacks.fit_plan import FitPlan
from keras_freeze.findings import (
    Finding,
    Setup,
    constant_rate,
    of_inputs,
    of_structure,
    of_task,
)
from keras_freeze.keras_internals.callback_list import arguments_of_fit
from keras_freeze.keras_internals.own_code import replaced_methods
from keras_freeze.measures import fixed_batch
from keras_freeze.policies import phase_flags
from keras_freeze.reading import as_labels

# As many samples are looked at: their extremes are what matters.
_ROWS = 8


def setup_of(plan: FitPlan, batch_size: int | None) -> Setup:
    """Return what a plan trains, and at which rates.

    Args:
        plan: What is decided before a fit.
        batch_size: Int, None if not known.
    """
    picture = plan.picture
    rate = constant_rate(picture.model)
    layers = picture.pretrained.layers if picture.pretrained is not None else ()
    pretrained = {id(layer) for layer in picture.batch_norms_in(layers)}
    first: frozenset[int] | None = None
    moving: dict[str, None] = {}
    rates: dict[str, float] = {}
    for phase in plan.schedule.phases:
        flags = phase_flags(picture, plan.sketch(phase), phase.batch_norm)
        training = frozenset(id(variable) for variable, trains in flags.variables if trains)
        first = training if first is None else first
        names = (layer.name for layer, moves in flags.layers if moves and id(layer) in pretrained)
        moving.update(dict.fromkeys(names))
        multipliers = plan.multipliers(phase)
        for group in picture.groups:
            if rate is not None and any(id(v) in training for v in group.variables):
                present = rate * multipliers[group.name]
                rates[group.name] = max(rates.get(group.name, 0.0), present)
    return Setup(picture, first or frozenset(), tuple(moving), rates, True, batch_size)


def findings_of_fit(plan: FitPlan) -> list[Finding]:
    """Return what is found as a fit begins.

    Data are looked at where they are arrays; to read others would take samples away.
    """
    model, given = plan.picture.model, arguments_of_fit()
    x, y, size = (given.get(name) for name in ("x", "y", "batch_size"))
    found = list(of_structure(setup_of(plan, size)))
    if plan.picture.backbone is None:  # the schedule itself warns of it
        found = [finding for finding in found if finding.name != "untrained backbone"]
    inputs = _first_rows(model, x)
    if inputs is not None:
        # Whatever is wrong with inputs, fit says it better, and advice ends no training.
        with contextlib.suppress(Exception):
            found += of_inputs(plan.picture, inputs)
    if "train_step" not in replaced_methods(model):
        labels = as_labels(y)
        found += of_task(model, labels if isinstance(labels, np.ndarray) else None)
    return found


def _first_rows(model: keras.Model, x: Any) -> Any | None:
    """Return the first samples as tensors; None where the data are no arrays or too few."""
    leaves = keras.tree.flatten(x)
    if not leaves or not all(isinstance(leaf, np.ndarray) and leaf.ndim for leaf in leaves):
        return None
    fixed = fixed_batch(model)
    rows = fixed or _ROWS
    if any(leaf.dtype.kind not in "biuf" for leaf in leaves) or (fixed and len(leaves[0]) < rows):
        return None
    return keras.tree.map_structure(lambda leaf: keras.ops.convert_to_tensor(leaf[:rows]), x)
