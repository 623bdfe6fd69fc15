"""What a check finds, and the cure for it."""

from __future__ import annotations

import dataclasses
import html
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import rich.text

# The width of the text, as that of tables.
_WIDTH = 80


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something about a model or its data that will probably spoil a training.

    Attributes:
        name: Str, the kind of finding, such as `"preprocessing"`.
        what: Str, what was found, with the numbers.
        cure: Str, what to write instead, as code.
    """

    name: str
    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}. Try: {self.cure}"


@dataclasses.dataclass(frozen=True, repr=False)
class Findings:
    """What `check` found; printed as text, or as HTML in a notebook.

    It is truthy if anything was found, and iterable.

    Attributes:
        model: Str, the model's name.
        findings: Tuple of `Finding`.
        skipped: Tuple of str, what could not be checked, and what it needs.
    """

    model: str
    findings: tuple[Finding, ...]
    skipped: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def names(self) -> tuple[str, ...]:
        """The kinds of what was found."""
        return tuple(finding.name for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain data, ready for JSON."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        return f"Findings(model={self.model!r}, names={self.names!r})"

    def __str__(self) -> str:
        lines = [f"{self.model}: {len(self.findings) or 'nothing'} found", ""]
        for number, finding in enumerate(self.findings, 1):
            head = f"{number}. "
            indent = " " * len(head)
            for begin, text in (
                (head, f"{finding.name}: {finding.what}."),
                (indent, f"Try: {finding.cure}"),
            ):
                lines += textwrap.wrap(
                    text,
                    _WIDTH,
                    initial_indent=begin,
                    subsequent_indent=indent,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
        for reason in self.skipped:
            lines += textwrap.wrap(f"Not checked: {reason}", _WIDTH, subsequent_indent="  ")
        return "\n".join(lines).rstrip()

    def __rich__(self) -> rich.text.Text:
        return rich.text.Text(str(self))

    def _repr_html_(self) -> str:
        rows = [
            f"<li><b>{html.escape(f.name)}</b>: {html.escape(f.what)}.<br>"
            f"Try: <code>{html.escape(f.cure)}</code></li>"
            for f in self.findings
        ]
        skipped = [f"<br>Not checked: {html.escape(reason)}" for reason in self.skipped]
        title = f"{html.escape(self.model)}: {len(rows) or 'nothing'} found"
        return f"<b>{title}</b><ol>{''.join(rows)}</ol>{''.join(skipped)}"


def in_order(found: Iterable[Finding | None]) -> tuple[Finding, ...]:
    """Return what was found, without what was not."""
    return tuple(finding for finding in found if finding is not None)
