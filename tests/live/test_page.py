"""The HTML of a live view, read as XML."""

import itertools
import math
import xml.etree.ElementTree as ElementTree

import live_statuses as statuses
import pytest

from keras_freeze.live.page import TRAINING, VALIDATION, as_html
from keras_freeze.live.status import Curve, GroupState, GroupStatus, Status
from keras_freeze.plots.style import COLOURS

SVG = "{http://www.w3.org/2000/svg}"


def parsed(status):
    """Return the page; raise if a tag is not closed or a character not escaped."""
    return ElementTree.fromstring(as_html(status).replace("&nbsp;", " ").replace("<br>", "<br/>"))


def lines_of(page):
    """Return the points of each curve that is drawn."""
    return [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in page.iter(f"{SVG}polyline")
    ]


def text_of(page):
    return " ".join("".join(page.itertext()).split())


@pytest.mark.parametrize(
    "status",
    [
        Status("net"),
        statuses.running(),
        statuses.running(done=0),
        statuses.running(30, statuses.LONG, 4),
        statuses.done(),
        statuses.running(steps=None, phase=None, epochs=1000),
    ],
    ids=["empty", "running", "at first", "30 groups", "done", "unknown"],
)
def test_it_is_well_formed_and_holds_no_code_or_files(status):
    page = parsed(status)
    tags = {element.tag.removeprefix(SVG) for element in page.iter()}
    assert not tags & {"script", "link", "img", "iframe", "style", "use", "image"}
    attributes = {name for element in page.iter() for name in element.attrib}
    assert not {name for name in attributes if name.startswith("on") or "href" in name}


def test_it_says_what_there_is():
    text = text_of(parsed(statuses.running()))
    for part in (
        "vgg16_photographs · Epoch 7 of 12, step 40 of 120",
        "Phase 2 of 4, ends: after 4 epochs · phase: about 40 s left · fit: about 3 min left",
        "■ head1.0e-03",
        "■ block43.8e-04",
        "◧ block31.5e-04",
        "□ block2frozen",
        "training 0.6667",
        "validation 1.078",
        "cache: cuts at block4_pool",
        "block5 unfreezes at 4.0e-04",
    ):
        assert part in text, part


def test_names_are_escaped():
    name = '<b onload="x">&'
    group = GroupStatus(name, 1, GroupState.TRAINS, 0.1)
    curve = Curve(name, (0,), (1.0,), (math.nan,))
    status = Status(name, groups=(group,), curves=(curve,), cache=name, log=(name,))
    assert text_of(parsed(status)).count(name) == 5
    assert "<b onload" not in as_html(status)


def test_long_names_are_cut_so_that_they_differ_and_are_whole_in_the_tooltip():
    page = parsed(statuses.running(30, statuses.LONG, 4))
    cells = [div for div in page.iter("div") if div.get("title")]
    names = [cell.findall("span")[1].text for cell in cells]
    assert len(set(names)) == 30
    assert max(map(len, names)) <= 22
    assert cells[1].get("title").startswith(statuses.LONG.format(28))


def test_a_curve_is_drawn_at_the_ends_of_epochs():
    curve = Curve("loss", (0, 1, 2, 3), (4.0, 3.0, 2.0, 1.0), (math.nan,) * 4)
    (points,) = lines_of(parsed(Status("net", curves=(curve,))))
    left, right, top, bottom = 46, 342, 20, 132
    assert points[-1] == (right, bottom)
    assert points[0] == (left + (right - left) / 4, top)
    steps = {round(b[0] - a[0], 1) for a, b in itertools.pairwise(points)}
    assert steps == {(right - left) / 4}


def test_transitions_are_marked_within_the_curve():
    page = parsed(statuses.running(transitions=(2.0, 4.5)))
    marks = [line for line in page.iter(f"{SVG}line") if line.get("stroke-dasharray") == "1 3"]
    places = [float(mark.get("x1")) for mark in marks[:2]]
    assert places == pytest.approx([46 + 296 * 2 / 6, 46 + 296 * 4.5 / 6], abs=0.05)
    assert len(marks) == 4  # in two pictures


@pytest.mark.parametrize(
    ("values", "runs"),
    [
        ([1.0, math.nan, 2.0, 3.0], [1, 2]),
        ([math.nan, math.inf], []),
        ([5.0], [1]),
        ([2.0, 2.0], [2]),
    ],
)
def test_gaps_are_left_out(values, runs):
    curve = Curve("loss", tuple(range(len(values))), tuple(values), (math.nan,) * len(values))
    found = lines_of(parsed(Status("net", curves=(curve,))))
    assert [len(points) for points in found] == runs
    assert all(math.isfinite(number) for points in found for point in points for number in point)


def test_a_long_training_is_a_small_page():
    status = statuses.running(30, done=1000, epochs=1000)
    assert max(map(len, lines_of(parsed(status)))) == 200
    assert len(as_html(status)) < 40_000


def test_older_lines_are_folded():
    page = parsed(Status("net", log=tuple(f"line {n}" for n in range(20))))
    (details,) = page.iter("details")
    assert text_of(details.find("summary")) == "earlier lines"
    assert [line.text for line in details.findall("div")] == [f"line {n}" for n in range(14)]
    assert "line 19" in text_of(page)


def luminance(colour):
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", [TRAINING, VALIDATION])
@pytest.mark.parametrize("page", ["#ffffff", "#111111", "#1e1e1e"], ids=["white", "Jupyter", "VS"])
def test_colours_are_those_of_plots_and_can_be_seen_on_light_and_dark(colour, page):
    assert colour in COLOURS
    high, low = sorted((luminance(colour), luminance(page)), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 3.0  # WCAG 2.2 for graphics
