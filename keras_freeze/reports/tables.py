"""Print tables of rich as plain text."""

from __future__ import annotations

import io

import rich.console
import rich.table


def as_text(table: rich.table.Table, width: int) -> str:
    """Return a table as text without colour, its lines without spaces at their end.

    Args:
        table: `rich.table.Table`.
        width: Int, the most characters in a line.
    """
    text = io.StringIO()
    # Told all of this, since rich would otherwise ask the terminal or notebook around it.
    console = rich.console.Console(
        file=text, width=width, no_color=True, force_terminal=False, force_jupyter=False
    )
    console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).rstrip()
