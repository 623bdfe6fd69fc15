"""Learning rates of groups by their gradients, as surgical fine-tuning sets them (Auto-RGN)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from keras_freeze.engine import recordings
from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.model_picture import ModelPicture
from keras_freeze.ranking import looked_at


def relative_norms(picture: ModelPicture) -> dict[str, float]:
    """Return, of each group with recorded gradients, their norm relative to that of its weights.

    It is the root of the mean over steps of the squared norm; normalization layers and tensors
    that are all zero are left out. Groups of which nothing is known are missing.

    Args:
        picture: The picture of a model that records norms.
    """
    norms, found = recordings.norms(picture.model), {}
    for group in picture.groups:
        own = [v for v in looked_at(picture, group.variables) if id(v) in norms]
        norm = recordings.root_mean_square(norms[id(v)] for v in own)
        weights = math.hypot(*(float(np.linalg.norm(to_host(v).astype("float64"))) for v in own))
        if math.isfinite(norm) and weights:
            found[group.name] = norm / weights
    return found


def rates_by_norms(relative: Mapping[str, float]) -> dict[str, float]:
    """Return the learning-rate multiplier of each group: its norm over the largest.

    Reference:
        - [Lee et al., 2022](https://arxiv.org/abs/2210.11466), Auto-RGN.

    Example:
        >>> rates_by_norms({"low": 0.01, "high": 0.02, "head": 0.04})
        {'low': 0.25, 'high': 0.5, 'head': 1.0}
    """
    known = {name: norm for name, norm in relative.items() if math.isfinite(norm)}
    largest = max(known.values(), default=0.0)
    return {name: norm / largest for name, norm in known.items()} if largest else {}
