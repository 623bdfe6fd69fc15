"""Count what a cache has given."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Statistics:
    """What a cache did in one fit.

    Attributes:
        hits: Int, samples of which the features were looked up.
        misses: Int, samples of which they were computed.
        nbytes: Int, the most bytes that were kept at a time.
        compute_s: Float, seconds in which features were computed.
        computed: Int, samples in these seconds; the first batch of each cut is left out, since
            it is traced.
        lookup_s: Float, seconds in which samples were told apart, looked up and kept.
    """

    hits: int = 0
    misses: int = 0
    nbytes: int = 0
    compute_s: float = 0.0
    computed: int = 0
    lookup_s: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Part of the samples that were looked up, from 0 to 1."""
        return self.hits / max(1, self.hits + self.misses)

    @property
    def sample_s(self) -> float:
        """About how many seconds it takes to compute a sample's features."""
        return self.compute_s / max(1, self.computed)

    @property
    def saved_s(self) -> float:
        """About how many seconds were saved."""
        return self.hits * self.sample_s - self.lookup_s
