"""The README's code runs, in order, and prints the lines that the README shows.

All `python` blocks share one namespace, as a reader's session would. A `text` block after a
`python` block, with at most a paragraph between, shows some of the lines that the block prints.
"""

import contextlib
import io
import re
from pathlib import Path

import keras
import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n*(?:^[^`\n#][^\n]*\n)*\n*^```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
MOST_LINES = 120
# Nothing is downloaded here, and small pictures suffice; neither changes what is printed.
SMALLER = {'weights="imagenet"': "weights=None", "224": "32"}
# Losses, times and rates differ between machines; counts and words don't.
VARIES = re.compile(r"\d+\.\d+(?:e[+-]?\d+)?|\d+e[+-]?\d+|\b\d+m?s\b")
TERMINAL = re.compile(r"\x1b\[[\d;]*[A-Za-z]")


def comparable(text):
    """Return the lines of an output without what differs between machines and terminals."""
    text = VARIES.sub("#", TERMINAL.sub("", text))
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Make a folder of pictures in three classes, beside which the README's code runs."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs", "owls"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(5):
            keras.utils.save_img(folder / f"{number}.png", rng.integers(0, 255, (32, 32, 3)))


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.landing
# Keras warns of its own default for data from tf.data.
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
@pytest.mark.usefixtures("photos")
def test_readme_code_runs_and_prints_what_is_shown():
    text = README.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert blocks, "the README shows no Python code"
    assert len(blocks) == text.count("```python"), "a block is not closed as expected"
    namespace = {"__name__": "__main__"}
    for block in blocks:
        # Blank lines in front, so that a traceback gives the README's line numbers.
        code = "\n" * text.count("\n", 0, block.start("code")) + block["code"]
        for shown, run in SMALLER.items():
            assert shown in code
            code = code.replace(shown, run)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(README), "exec"), namespace)
        lines = comparable(printed.getvalue())
        if block["output"] is not None:
            assert [line for line in comparable(block["output"]) if line not in lines] == []
