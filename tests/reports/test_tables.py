"""The renderer of tables: whole words, names that stay apart, at any width and in HTML."""

import io
import re
from html.parser import HTMLParser

import pytest
import rich.console
from hypothesis import given, strategies as st
from rich.cells import cell_len

from keras_freeze.reports.tables import Column, Table, shortened

NAME, TEXT, NUMBER = (
    Column("group", fit="shorten"),
    Column("ends", fit="wrap"),
    Column("parameters", align="right"),
)
STALLS = "val_loss stalls for 3 epochs, or after 14 epochs"

LOOKS = {  # columns, rows, footer, width, and the text
    "all fits": (
        (NAME, NUMBER),
        (("block1", "1,024"), ("head", "12")),
        (("total", "1,036"),),
        80,
        """\
net

 group   parameters
 ──────────────────
 block1       1,024
 head            12

 total        1,036""",
    ),
    "text wraps between words": (
        (NAME, TEXT, NUMBER),
        (("block1", STALLS, "1,024"), ("head", "with the fit", "12")),
        (),
        50,
        """\
net

 group   ends                           parameters
 ─────────────────────────────────────────────────
 block1  val_loss stalls for 3 epochs,       1,024
         or after 14 epochs
 head    with the fit                           12""",
    ),
    "long text gets a line of its own": (
        (NAME, TEXT, NUMBER),
        (("block1", f"{STALLS}, or {STALLS}", "1,024"), ("head", "", "12")),
        (),
        50,
        """\
net

 group   parameters
 ──────────────────
 block1       1,024
     ends: val_loss stalls for 3 epochs, or
       after 14 epochs, or val_loss stalls for 3
       epochs, or after 14 epochs
 head            12""",
    ),
    "names lose their middle": (
        (NAME, NUMBER),
        (("encoder_layer_3_attention_output_dense", "1"), ("encoder_layer_4_mlp_dense", "2")),
        (),
        34,
        """\
net

 group                  parameters
 ─────────────────────────────────
 encoder_la…tput_dense           1
 encoder_la…_mlp_dense           2""",
    ),
    "lines within cells": (
        (NAME, NUMBER),
        (("block1", "1\n22"),),
        (),
        80,
        """\
net

 group   parameters
 ──────────────────
 block1           1
                 22""",
    ),
    "wide characters": (
        (NAME, NUMBER),
        (("层一", "1"), ("a", "2")),
        (),
        80,
        """\
net

 group  parameters
 ─────────────────
 层一            1
 a               2""",
    ),
}


@pytest.mark.parametrize("case", LOOKS)
def test_a_table_reads_so(case):
    columns, rows, footer, width, text = LOOKS[case]
    assert Table("net", columns, rows, footer).as_text(width) == text


def test_more_columns_than_fit_get_lines_of_their_own():
    columns = tuple(Column(f"parameter_{letter}", align="right") for letter in "abcdefgh")
    text = Table("", columns, (tuple("12345678"),)).as_text(80)
    header, _, row, *below = text.split("\n")
    assert header.split() == [f"parameter_{letter}" for letter in "abcdef"]
    assert row.split() == list("123456")
    assert below == ["     parameter_g: 7", "     parameter_h: 8"]


WORDS = st.text(st.sampled_from("ab_12-"), min_size=1, max_size=40)
CELLS = st.lists(WORDS, min_size=1, max_size=12).map(" ".join)
COLUMNS = (NAME, TEXT, NUMBER, Column("begins", fit="wrap"), Column("kind", fit="shorten"))


@given(
    st.lists(st.tuples(WORDS, CELLS, st.integers().map(str), CELLS, WORDS), min_size=1, max_size=6),
    st.integers(80, 130),
)
def test_no_line_is_too_long_and_no_word_of_readable_length_breaks(rows, width):
    text = Table("net", COLUMNS, tuple(rows)).as_text(width)
    assert max(map(cell_len, text.split("\n"))) <= width
    shown = set(text.split())
    for row in rows:
        for cell in row:
            for word in cell.split():
                assert word in shown or cell_len(word) > 12


@given(st.lists(WORDS, max_size=8), st.integers(8, 30))
def test_shortened_names_fit_and_differ(names, width):
    shown = shortened(names, width)
    assert list(shown) == list(dict.fromkeys(names))
    assert len(set(shown.values())) == len(shown)
    for name, text in shown.items():
        assert cell_len(text) <= width
        assert text == name or (cell_len(name) > width and "…" in text)


CUTS = {  # names, width, what is shown
    "both ends": (["a" * 9 + "b" * 9], 8, ["aaa…bbbb"]),
    "the end differs": (["layer_one_first", "layer_one_second"], 8, ["lay…irst", "lay…cond"]),
    "more of the end": (["layer_a_xyzw", "layer_b_xyzw"], 9, ["la…a_xyzw", "la…b_xyzw"]),
    "the middle differs": (
        ["encoder_3_output_dense_kernel", "encoder_4_output_dense_kernel"],
        12,
        ["enc…3_outpu…", "enc…4_outpu…"],
    ),
    "no place shows all differences": (
        ["a0" + "x" * 30 + "b" * 20, "a0" + "x" * 29 + "y" + "b" * 20, "a1" + "x" * 30 + "b" * 20],
        10,
        ["a0xxxxxx…1", "a0xxxxxx…2", "a1xxxxxx…3"],
    ),
    "wide characters": (["层" * 10], 9, ["层层…层层"]),
}


@pytest.mark.parametrize("case", CUTS)
def test_where_names_are_cut(case):
    names, width, shown = CUTS[case]
    assert list(shortened(names, width).values()) == shown


def test_with_rich_it_takes_the_width_of_the_console_and_dims_rows():
    table = Table("[red]", (NAME, TEXT), (("block1", STALLS), ("head", "x")), dim=frozenset({1}))
    for width in (30, 100):
        console = rich.console.Console(
            file=io.StringIO(), force_terminal=True, color_system="standard", width=width
        )
        console.print(table)
        lines = console.file.getvalue().splitlines()
        plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
        assert [line.rstrip() for line in plain] == table.as_text(width).split("\n")
        assert ["\x1b[2m" in line for line in lines if "head" in line] == [True]
        assert not any("\x1b[2m" in line for line in lines if "block1" in line)


class Page(HTMLParser):
    """Tags with their attributes and the text that a browser would show."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


LONG = 'encoder"' + "_layer" * 10 + "<b>"


def test_html():
    rows = (("<i>&low", STALLS, "1\n2"), (LONG, "x", "3"))
    table = Table("<net>", (NAME, TEXT, NUMBER), rows, (("total", "", "6"),), frozenset({1}))
    text = table.as_html()
    page = Page(text)
    assert page.texts[0] == "<net>"
    assert "<i>&low" in page.texts
    assert {tag for tag, _ in page.tags} == {
        *("table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "br", "span", "div")
    }
    assert [attrs["title"] for tag, attrs in page.tags if tag == "span"] == [LONG]
    assert sum("…" in text for text in page.texts) == 1
    styles = [attrs.get("style", "") for tag, attrs in page.tags if tag in ("th", "td")]
    aligned = [re.search("text-align:(.*?);", style)[1] for style in styles]
    assert aligned == [*(["left", "left", "right"] * 3), "left", "right"]
    assert [s.endswith("normal") for s in styles] == [*([False, True, False] * 3), False, False]
    rows = [attrs.get("style", "") for tag, attrs in page.tags if tag == "tr"]
    assert rows == ["", "", "opacity:0.55", "font-weight:bold"]
    assert "color" not in text and "background" not in text  # right on light and dark pages


def test_in_html_a_footer_takes_the_place_of_empty_cells_beside_it():
    footer = (("memory of a step:", "", "", ""), ("all", "", "", "6"), ("1", "", "7", "8"))
    table = Table("", (NAME, TEXT, NUMBER, NUMBER), (("a", "b", "1", ""),), footer)
    cells = [attrs for tag, attrs in Page(table.as_html()).tags if tag == "td"]
    assert [cell.get("colspan") for cell in cells[:4]] == [None] * 4
    assert [cell.get("colspan") for cell in cells[4:]] == ["4", "3", None, "2", None, None]
    # A number stays in its column.
    numbers = Table("", (NAME, NUMBER, NUMBER), (), (("1", "7", ""),)).as_html()
    assert "colspan" not in numbers


def test_html_without_title_or_footer():
    tags = [tag for tag, _ in Page(Table("", (NAME,), (("a",),)).as_html()).tags]
    assert tags == ["table", "thead", "tr", "th", "tbody", "tr", "td"]


def test_a_footer_runs_on_into_the_empty_cell_beside_it():
    columns = (Column("group"), Column("kind", fit="wrap"), Column("count", align="right"))
    table = Table("", columns, (("low", "2 Dense", "9"),), (("non-trainable", "", "10"),))
    assert table.as_text().splitlines() == [
        " group  kind     count",
        " ─────────────────────",
        " low    2 Dense      9",
        "",
        " non-trainable      10",
    ]
