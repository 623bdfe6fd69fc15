"""A freeze policy that looks at gradients as its phase begins."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import keras
import numpy as np

from keras_freeze.checks import ArgumentError, check_count
from keras_freeze.model_picture import ModelPicture
from keras_freeze.policies import FreezeGroups, FreezePolicy, Selection
from keras_freeze.ranking import By, check_by, check_can_rank, rank_in, rankable


@dataclasses.dataclass(frozen=True, eq=False)
class TopGradient(FreezePolicy):
    """Freeze all pretrained layer groups but those that some data would change most.

    The groups are ranked when a phase with this policy begins, as `keras_freeze.rank_groups` does
    it, which computes the gradients of a few batches; nothing in the model changes by that. What is
    new trains as well. The cache serves what lies below the first group that trains.

    Args:
        k: Int, positive, how many of the pretrained groups train.
        x: The inputs, as for `rank_groups`: such as some of the training data.
        y: The targets. Defaults to None.
        batches: Int, how many are computed. Defaults to 5.
        batch_size: Int, for arrays. Defaults to 32.
        by: `"relative_gradient_norm"` (default) or `"signal_to_noise"`.

    Raises:
        TypeError: at the start of training, if `x` could not be read again.
        ValueError: if an argument is invalid; at the start of training, if the model has fewer
            groups that can be ranked, or as by `rank_groups`.

    Example:
        >>> from keras_freeze.schedules import FreezeSchedule, Phase
        >>> x, y = np.ones((8, 4)), np.ones((8, 1))
        >>> later = Phase(TopGradient(1, x, y))
        >>> schedule = FreezeSchedule([Phase(["low", "high"], until=2), later])
        >>> later
        Phase(frozen=TopGradient(k=1, batches=5, batch_size=32, by='relative_gradient_norm'))

    Reference:
        - [Lee et al., 2022](https://arxiv.org/abs/2210.11466): surgical fine-tuning.
    """

    k: int
    x: Any = dataclasses.field(repr=False)
    y: Any = dataclasses.field(default=None, repr=False)
    batches: int = 5
    batch_size: int = 32
    by: By = "relative_gradient_norm"
    decides_late: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("TopGradient", "k", self.k)
        check_count("TopGradient", "batches", self.batches)
        check_count("TopGradient", "batch_size", self.batch_size)
        check_by("TopGradient", self.by)

    def select_in(self, picture: ModelPicture) -> Selection:
        """Rank the groups, and return what is frozen.

        Raises:
            ValueError: outside a schedule, where it isn't known what is pretrained.
        """
        if not picture.groups:
            raise ValueError(
                "TopGradient must be in a phase of a schedule, which decides as it begins. For "
                "keras_freeze.freeze, pass keras_freeze.rank_groups(model, x, y).top(k)."
            )
        ranking = rank_in(picture, self.x, self.y, None, self.batch_size, self.batches)
        return ranking.top(self.k, self.by).select_in(picture)

    def sketch_in(self, picture: ModelPicture) -> Selection:
        """Return what is frozen if the groups next to the head rank first."""
        ranked = rankable(picture)
        if self.k > len(ranked):
            rule = f"be at most {len(ranked)}, as many pretrained groups as have a rank"
            raise ArgumentError("TopGradient", "k", rule, value=self.k)
        chosen = ranked[len(ranked) - self.k :]
        frozen = [name for name in picture.group_names[:-1] if name not in chosen]
        return FreezeGroups(frozen or 0, picture.division).select_in(picture)

    def check_in(self, picture: ModelPicture) -> None:
        """Raise if the groups of a model can't be ranked by the data, which begins to be read."""
        check_can_rank(picture, self.x, self.y, self.batch_size, self.batches, self.by)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopGradient):
            return NotImplemented
        settings = (self.k, self.batches, self.batch_size, self.by)
        others = (other.k, other.batches, other.batch_size, other.by)
        return settings == others and _same(self.x, other.x) and _same(self.y, other.y)

    def __hash__(self) -> int:
        return hash((self.k, self.batches, self.batch_size, self.by))

    def __deepcopy__(self, memo: Any) -> TopGradient:
        """Return itself: it never changes, and its data may be large, or have no copy."""
        return self


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    mine, yours = keras.tree.flatten(one), keras.tree.flatten(other)
    if len(mine) != len(yours) or not all(isinstance(a, np.ndarray) for a in (*mine, *yours)):
        return False
    return all(np.array_equal(a, b) for a, b in zip(mine, yours, strict=True))
