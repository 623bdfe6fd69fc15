"""What `suggest` says: how deep to freeze and how to train, each with a reason and its source."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

from keras_freeze.advice.probes import Score
from keras_freeze.callbacks import FreezeScheduler
from keras_freeze.reports import Column, ShownAsTable, Table
from keras_freeze.schedules import Rates

#: How like the pretraining a task is: `"near"`, `"far"`, so that pretraining doesn't help, not to
#: be told by probes, or not to be asked, since nothing seems to have trained the backbone.
Similarity = Literal["near", "far", "none", "unclear", "untrained"]


@dataclasses.dataclass(frozen=True)
class Advice:
    """One row of a `Suggestion`.

    Attributes:
        about: Str, what it is about, such as `"freeze depth"`.
        value: Str, what to do; code, where there is some.
        reason: Str.
        source: Str, who found so.
    """

    about: str
    value: str
    reason: str
    source: str


@dataclasses.dataclass(frozen=True)
class ProbedGroup:
    """What linear probes make of a group's outputs.

    Attributes:
        name: Str, the group.
        depth: Int, how many groups are frozen where it is the last of these.
        score: `Score` of the pretrained weights.
        shuffled: `Score` of the same weights, shuffled within each tensor.
    """

    name: str
    depth: int
    score: Score
    shuffled: Score


@dataclasses.dataclass(frozen=True, repr=False)
class Suggestion(ShownAsTable):
    """How to begin; printed as text, with rich, or as HTML in a notebook.

    Attributes:
        model: Str, the model's name.
        depth: Int, how many layer groups to freeze, counted from the input.
        groups: Tuple of str, all layer groups, from input to head.
        similarity: `"near"`, `"far"`, `"none"` where pretraining does not help, `"unclear"`, or
            `"untrained"` where nothing seems to have trained the backbone.
        is_small: Bool, whether there are few samples.
        advice: Tuple of `Advice`.
        probes: Tuple of `ProbedGroup`, from input to head; empty where no data were given.
        backbone: What is pretrained, as it was given.
        division: How the model was divided into groups, as it was given.
    """

    model: str
    depth: int
    groups: tuple[str, ...]
    similarity: Similarity
    is_small: bool
    advice: tuple[Advice, ...]
    probes: tuple[ProbedGroup, ...] = ()
    backbone: Any = None
    division: Any = None

    @functools.cached_property
    def callback(self) -> FreezeScheduler:
        """A callback that trains so, ready for `fit`; its `report` can be read here afterwards."""
        return FreezeScheduler(
            {0: self.depth or None},
            backbone=self.backbone,
            groups=self.division,
            rates=self.rates,
        )

    @property
    def rates(self) -> Rates:
        """The learning rates of the groups: `"default"`, or None for one rate."""
        return None if self.similarity in ("none", "untrained") else "default"

    @property
    def code(self) -> str:
        """The callback as code, for a script with `import keras_freeze as kf`."""
        return code_of(self, repr(self.depth or None))

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain data, ready for JSON."""
        found = dataclasses.asdict(dataclasses.replace(self, backbone=None, division=None))
        del found["backbone"], found["division"]
        return {**found, "code": self.code}

    def __repr__(self) -> str:
        return (
            f"Suggestion(model={self.model!r}, depth={self.depth}, similarity={self.similarity!r}, "
            f"is_small={self.is_small})"
        )

    def _table(self) -> Table:
        columns = (
            Column("about"),
            Column("do", fit="wrap"),
            Column("because", fit="wrap"),
        )
        rows = [(row.about, row.value, f"{row.reason} ({row.source})") for row in self.advice]
        size = "little data" if self.is_small else "much data"
        words = {
            "near": "near to the pretraining",
            "far": "far from the pretraining",
            "none": "to which pretraining does not help",
            "unclear": "of which probes tell nothing",
            "untrained": "and a backbone that nothing seems to have trained",
        }
        title = f"{self.model}: {size}, {words[self.similarity]}"
        return Table(title, columns, tuple(rows))


def code_of(suggestion: Suggestion, frozen: str) -> str:
    """Return as code a callback like that of a suggestion, which freezes what `frozen` says."""
    rates = f', rates="{suggestion.rates}"' if suggestion.rates else ""
    return f"kf.FreezeScheduler({{0: {frozen}}}{rates}{division_of(suggestion)})"


def division_of(suggestion: Suggestion) -> str:
    """Return as code the arguments that say what is pretrained and how groups are made."""
    given: Any = suggestion.backbone
    text = f'"{given}"' if isinstance(given, str) else repr(given)
    backbone = "" if given is None else f", backbone={text}"
    return backbone if suggestion.division is None else f"{backbone}, groups=groups"
