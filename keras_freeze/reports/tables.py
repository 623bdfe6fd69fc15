"""One renderer for every table of the package: text of any width, HTML, and rich.

A report derives from `ShownAsTable` and describes itself as a `Table` of strings.

Words are never broken, and two names never become the same text: what is too wide is shortened
in the middle, wrapped between words, or printed on a line of its own below its row.
"""

from __future__ import annotations

import dataclasses
import html
import os.path
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import rich.console
import rich.text
from rich.cells import cell_len, set_cell_size

#: Cells between two columns, and before the first.
_GAP, _INDENT = 2, 1
#: The least width of a column that may be shortened, or wrapped.
_MIN_NAME, _MIN_TEXT = 12, 12
#: About as many lines may a cell be wrapped to; beyond, it gets lines of its own.
_MAX_LINES = 3
#: In HTML, where the page decides on the width; the full name is the cell's tooltip.
_MAX_HTML_NAME = 40
#: A title may be wider than its table, which it neither widens nor is narrowed by.
_LEFT, _WIDE = 'style="text-align:left"', 'style="width:40em;max-width:90vw;margin-right:-40em"'


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a `Table`.

    Args:
        name: Str, its header.
        align: `"left"` (default) or `"right"`, for numbers.
        fit: What may be done where the table is too wide: `"whole"` (default) leaves the cells
            as they are, `"shorten"` cuts the middle out of names, `"wrap"` breaks lines
            between words.
    """

    name: str
    align: Literal["left", "right"] = "left"
    fit: Literal["whole", "shorten", "wrap"] = "whole"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of strings.

    Args:
        title: Str, the line above it; "" for none.
        columns: Tuple of `Column`.
        rows: Tuple of rows, each a tuple with a str for each column. A line break in one starts
            a new line within the cell.
        footer: Further rows, for totals. Defaults to none.
        dim: Indices of the rows to show dimmed, where the output can. Defaults to none.
        notes: Sentences to print under the table, each in a paragraph. Defaults to none.

    Example:
        >>> columns = Column("group", fit="shorten"), Column("parameters", align="right")
        >>> table = Table("net", columns, (("block1", "1,024"), ("head", "12")))
        >>> print(table.as_text())
        net
        <BLANKLINE>
         group   parameters
         ──────────────────
         block1       1,024
         head            12
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    footer: tuple[tuple[str, ...], ...] = ()
    dim: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    def as_text(self, width: int = 80) -> str:
        """Return the table as plain text, no line longer than `width` characters."""
        return "\n".join(line for line, _ in self._lines(width))

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> Iterator[rich.text.Text]:
        """Print the table with rich, in the width of its console."""
        for line, style in self._lines(options.max_width):
            yield rich.text.Text(line, style, no_wrap=True)

    def as_html(self) -> str:
        """Return the table as HTML, in the colours of the page around it."""
        head = _html_row("th", self.columns, [_escaped(column.name) for column in self.columns])
        cells = [self._html_cells(n) for n in range(len(self.columns))]
        rows = list(zip(*cells, strict=True))
        body, foot = rows[: len(self.rows)], rows[len(self.rows) :]
        title = f"<caption {_LEFT}><div {_WIDE}>{_escaped(self.title)}</div></caption>"
        parts = ["<table>", title if self.title else ""]
        parts.append(f"<thead>{head}</thead><tbody>")
        for n, row in enumerate(body):
            parts.append(
                _html_row("td", self.columns, row, "opacity:0.55" if n in self.dim else "")
            )
        parts.append("</tbody>")
        if foot:
            bold = [self._html_footer_row(row) for row in foot]
            parts.append(f"<tfoot>{''.join(bold)}</tfoot>")
        notes = [f"<p>{_escaped(note)}</p>" for note in self.notes]
        return "".join([*parts, "</table>", *notes])

    def _html_footer_row(self, row: tuple[str, ...]) -> str:
        """Return a row of the footer; a cell at the left runs on into empty ones beside it."""
        spans, first = {0: 1}, 0
        for n in range(1, len(self.columns)):
            if row[n] or self.columns[first].align != "left":
                first = n
            spans[first] = spans.get(first, 0) + 1
        columns, cells = [self.columns[n] for n in spans], [row[n] for n in spans]
        return _html_row("td", columns, cells, "font-weight:bold", [*spans.values()])

    def _html_cells(self, n: int) -> list[str]:
        cells = [row[n] for row in (*self.rows, *self.footer)]
        if self.columns[n].fit != "shorten":
            return [_escaped(cell) for cell in cells]
        shown = shortened(cells, _MAX_HTML_NAME)
        return [
            _escaped(cell)
            if shown[cell] == cell
            else f'<span title="{html.escape(cell)}">{_escaped(shown[cell])}</span>'
            for cell in cells
        ]

    def _lines(self, width: int) -> Iterator[tuple[str, str]]:
        """Yield the lines of the text, each with its style of rich."""
        widths = self._widths(width)
        if self.title:
            for line in _wrapped(self.title, width):
                yield line, ""
            yield "", ""
        header = [[self.columns[n].name] for n in widths]
        for line in self._beside(header, widths):
            yield line, "bold"
        yield " " * _INDENT + "─" * (_total(widths.values()) - _INDENT), ""
        fitted = {n: self._fitted(n, widths[n]) for n in widths}
        for index, row in enumerate((*self.rows, *self.footer)):
            is_footer = index >= len(self.rows)
            if is_footer and index == len(self.rows):
                yield "", ""
            style = "bold" if is_footer else "dim" if index in self.dim else ""
            for line in self._beside([fitted[n][index] for n in widths], widths):
                yield line, style
            for n, column in enumerate(self.columns):
                if n not in widths and row[n]:
                    for line in _own_lines(column.name, row[n], width):
                        yield line, style
        for note in self.notes:
            yield "", ""
            for line in _wrapped(note, width):
                yield line, ""

    def _widths(self, width: int) -> dict[int, int]:
        """Return the width of each column; those left out get lines of their own."""
        full: list[int] = []
        least: list[int] = []
        for n, column in enumerate(self.columns):
            lines = [line for cell in self._fitting(n) for line in cell.split("\n")]
            header = cell_len(column.name)
            full.append(max([header, *map(cell_len, lines)]))
            words = [cell_len(word) for line in lines for word in line.split()]
            wrapped = max(_MIN_TEXT, max(words, default=0), full[n] // _MAX_LINES)
            narrow = {"shorten": _MIN_NAME, "wrap": wrapped}
            least.append(min(full[n], max(header, narrow.get(column.fit, full[n]))))
        beside = list(range(len(self.columns)))
        while len(beside) > 1 and _total([least[n] for n in beside]) > width:
            texts = [n for n in beside[1:] if self.columns[n].fit == "wrap"]
            beside.remove(max(texts, key=full.__getitem__) if texts else beside[-1])
        if len(beside) == 1:
            least[beside[0]] = min(least[beside[0]], width - _INDENT)
        widths = {n: full[n] for n in beside}
        while _total(widths.values()) > width:
            shrinkable = [n for n in widths if widths[n] > least[n]]
            widths[max(shrinkable, key=widths.__getitem__)] -= 1
        return widths

    def _runs_on(self, n: int, row: tuple[str, ...]) -> bool:
        """Tell whether a cell of the footer runs on into the empty one beside it."""
        return n + 1 < len(row) and not row[n + 1]

    def _fitting(self, n: int) -> list[str]:
        """Return the cells that have to fit in the width of a column."""
        footer = [row[n] for row in self.footer if not self._runs_on(n, row)]
        return [*(row[n] for row in self.rows), *footer]

    def _fitted(self, n: int, width: int) -> list[list[str]]:
        """Return the lines of each cell of a column, as they fit in its width."""
        fitted = iter(self._fitted_cells(n, width))
        cells = [next(fitted) for _ in self.rows]
        for row in self.footer:
            cells.append([row[n]] if self._runs_on(n, row) else next(fitted))
        return cells

    def _fitted_cells(self, n: int, width: int) -> list[list[str]]:
        cells = [cell.split("\n") for cell in self._fitting(n)]
        if self.columns[n].fit == "wrap":
            words = shortened([w for cell in cells for line in cell for w in line.split()], width)
            return [
                [wrapped for line in cell for wrapped in _joined(line.split(), words, width)]
                for cell in cells
            ]
        names = shortened([line for cell in cells for line in cell], width)
        return [[names[line] for line in cell] for cell in cells]

    def _beside(self, cells: Sequence[Sequence[str]], widths: dict[int, int]) -> Iterator[str]:
        """Yield the lines of one row, cells of several lines beside each other."""
        for line in range(max(map(len, cells))):
            texts, over = [], 0
            for cell, (n, width) in zip(cells, widths.items(), strict=True):
                text = cell[line] if line < len(cell) else ""
                left = width - cell_len(text) - over
                space, over = " " * left, max(0, -left)
                texts.append(space + text if self.columns[n].align == "right" else text + space)
            yield (" " * _INDENT + (" " * _GAP).join(texts)).rstrip()


class ShownAsTable:
    """Base class of reports: `print` gives text, `rich.print` a table, a notebook HTML.

    A subclass implements `_table`.
    """

    def _table(self) -> Table:
        raise NotImplementedError

    def __str__(self) -> str:
        return self._table().as_text()

    def __rich__(self) -> Table:
        return self._table()

    def _repr_html_(self) -> str:
        return self._table().as_html()


def shortened(names: Iterable[str], width: int) -> dict[str, str]:
    """Cut the middle out of names that are wider than `width`, so that they still differ.

    All are cut at the same places, so that what differs between two of them stays visible;
    where no place does that, they are numbered.

    Example:
        >>> shortened(["encoder_layer_3_attention_output", "encoder_layer_3_mlp_output"], 16)
        {'encoder_layer_3_attention_output': 'encoder…n_output', \
'encoder_layer_3_mlp_output': 'encoder…p_output'}
    """
    every = list(dict.fromkeys(names))
    long = [name for name in every if cell_len(name) > width]
    whole = set(every) - set(long)
    shown: dict[str, str] = {}
    for cut in _cuts(long, width):
        shown = dict(zip(long, cut, strict=True))
        if len(whole | set(shown.values())) == len(every):
            break
    return {name: shown.get(name, name) for name in every}


def _cuts(names: list[str], width: int) -> Iterator[list[str]]:
    for tail in range(width // 2, width - 2):
        yield [f"{_start(name, width - 1 - tail)}…{_end(name, tail)}" for name in names]
    same = len(os.path.commonprefix(names))  # noqa: RUF071 - character by character is meant
    yield [f"{_start(name, 3)}…{_start(name[same:], width - 5)}…" for name in names]
    digits = len(str(len(names)))
    yield [f"{_start(name, width - 1 - digits)}…{n}" for n, name in enumerate(names, 1)]


def _start(text: str, cells: int) -> str:
    return set_cell_size(text, cells).rstrip()


def _end(text: str, cells: int) -> str:
    return _start(text[::-1], cells)[::-1]


def _own_lines(name: str, cell: str, width: int) -> Iterator[str]:
    """Yield what stands below a row, for a column that has no room beside the others."""
    indent = " " * (_INDENT + 2 * _GAP)
    lines = _wrapped(f"{name}: {cell.replace(chr(10), ', ')}", width - len(indent))
    yield f"{indent}{lines[0]}"
    for line in lines[1:]:
        yield f"{indent}{' ' * _GAP}{line}"


def _wrapped(text: str, width: int) -> list[str]:
    words = text.split()
    return _joined(words, shortened(words, width - _GAP), width - _GAP)


def _joined(words: Sequence[str], shown: dict[str, str], width: int) -> list[str]:
    """Join words to lines, each as it is shown; no words give one empty line."""
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {shown[word]}" if lines[-1] else shown[word]
        if cell_len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(shown[word])
    return lines


def _total(widths: Iterable[int]) -> int:
    widths = list(widths)
    return _INDENT + sum(widths) + _GAP * (len(widths) - 1)


def _html_row(
    tag: str,
    columns: Sequence[Column],
    cells: Sequence[str],
    style: str = "",
    spans: Sequence[int] = (),
) -> str:
    parts = [f'<tr style="{style}">' if style else "<tr>"]
    for column, cell, span in zip(columns, cells, spans or [1] * len(cells), strict=True):
        space = "normal" if column.fit == "wrap" else "nowrap"
        width = f' colspan="{span}"' if span > 1 else ""
        look = f"text-align:{column.align};white-space:{space}"
        parts.append(f'<{tag}{width} style="{look}">{cell}</{tag}>')
    return "".join([*parts, "</tr>"])


def _escaped(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")
