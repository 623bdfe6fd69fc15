"""What a cache has done, counted, and the lines that it prints."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import keras

from keras_freeze.checks import first_few
from keras_freeze.cuts import Frontier, NoCut, Reason
from keras_freeze.model_picture import every_layer
from keras_freeze.prefix_cache.batches import Kind
from keras_freeze.reports import readable_bytes


@dataclasses.dataclass
class Statistics:
    """What a cache did in one fit.

    Attributes:
        hits: Int, samples whose features were looked up.
        misses: Int, samples whose features were computed.
        nbytes: Int, the most bytes that were stored at a time.
        compute_s: Float, seconds in which features were computed.
        computed: Int, samples in these seconds; without the first batch of each cut, for which a
            function is traced.
        lookup_s: Float, seconds for keys, lookups and storing.
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

    @contextlib.contextmanager
    def lookup(self) -> Iterator[None]:
        """Add the time spent inside to `lookup_s`."""
        begun = time.perf_counter()
        yield
        self.lookup_s += time.perf_counter() - begun

    def __str__(self) -> str:
        return self.text(f"at most {readable_bytes(self.nbytes)} kept")

    def text(self, kept: str) -> str:
        """Return what was done in words, with what is to be said of the bytes that are kept."""
        looked_up = f"{100 * self.hit_rate:.0f} % of {self.hits + self.misses:,} samples"
        text = f"{looked_up} were looked up; {kept}"
        if not self.computed:  # all features are of earlier fits, and it isn't known what they take
            return text
        if self.hits and round(-self.saved_s, 1) > 0:
            return f"{text}; took about {-self.saved_s:.1f} s more than it saved: train without it"
        return f"{text}; saved about {max(0.0, self.saved_s):.1f} s"


class Messages:
    """Prints what a cache decided and why: no line twice in a row.

    Args:
        say: Prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last = ""
        self._has_little_work = False

    def cut(
        self,
        frontier: Frontier,
        row_bytes: float,
        *,
        rows: int,
        steps: int | None,
        inference: bool,
        lowered: Sequence[keras.Layer] = (),
        validation: bool = False,
        views: int | None = None,
    ) -> None:
        """Print where a model is cut, what is kept there and what it saves.

        Args:
            frontier: Where it is cut.
            row_bytes: Float, bytes that are kept of a sample.
            rows: Int, samples in a batch.
            steps: Int, batches in an epoch; None if that is not known.
            inference: Bool, whether frozen layers run in inference mode.
            lowered: The layers that compute in bfloat16. Defaults to none.
            validation: Bool, whether the cut is one of validation alone. Defaults to False.
            views: Int, how many augmented views of each sample are kept; None for none.
        """
        count = steps * rows if steps else None
        text = f"up to {count:,} samples" if count else "samples"
        text += f" in {views} view{'s' * (views > 1)} each" if views else ""
        text += f" at {frontier.name}"
        text += f", {readable_bytes(row_bytes * count * (views or 1))}" if count else ""
        text += f"; skips {int(100 * frontier.share)} % of the forward pass."
        if frontier.ended_by:
            text += f" It ends there because {frontier.ended_by.detail}."
        if inference:
            text += " Frozen layers run in inference mode, without dropout."
        if lowered:
            able = {id(part) for part in lowered}
            others = [x.name for x in frontier.layers if able.isdisjoint(map(id, every_layer(x)))]
            text += " Layers before it compute in bfloat16, with 8 significant bits"
            text += f", but for {first_few(others)}." if others else "."
        if views:
            text += " Training sees these augmentations again instead of new ones."
        self._print(f"in validation, {text}" if validation else text)

    def not_used(self, no_cut: NoCut) -> None:
        """Print why a model is not cut; that too little work is frozen is printed once per fit."""
        is_little = no_cut.reason is Reason.LITTLE_WORK
        if not no_cut.reason.is_expected and not (is_little and self._has_little_work):
            self._print(f"not used: {no_cut.detail}.")
        self._has_little_work |= is_little

    def disabled(self, kind: Kind, no_cut: NoCut) -> None:
        """Print why training, or validation, continues without the cache."""
        what = "training" if kind == "train" else "validation"
        self._print(f"caching is disabled for {what}: {no_cut.detail}.")

    def no_views(self) -> None:
        """Print that `views=` changes nothing."""
        self._print("views= changes nothing, since the first layers of the model are not random.")

    def not_named(self, frontier: Frontier) -> None:
        """Print that features are not kept beyond the fit."""
        self._print(
            f"features at {frontier.name} are not kept beyond this fit, since an operation before "
            "it has settings that can't be compared with those of another."
        )

    def cleared(self, weight: str) -> None:
        """Print that stored features were computed with other weights."""
        self._print(f"cleared: weights before the cut have changed ({weight}).")

    def _print(self, text: str) -> None:
        if text != self._last:
            self._say(f"cache: {text}")
        self._last = text
