"""The README's code runs, in order, and prints what the README shows.

All `python` blocks share one namespace, as a reader's session would. A `text` block that follows
a `python` block with only blank lines between is that block's output.
"""

import contextlib
import io
import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n*^```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
# Losses, times and rates differ between machines; counts and words don't.
VARIES = re.compile(r"\d+\.\d+(?:e[+-]?\d+)?|\d+e[+-]?\d+|\b\d+m?s\b")
TERMINAL = re.compile(r"\x1b\[[\d;]*[A-Za-z]")


def comparable(text):
    """Return the lines of an output without what differs between machines and terminals."""
    text = VARIES.sub("#", TERMINAL.sub("", text))
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_readme_code_runs_and_prints_what_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may save files
    text = README.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert blocks, "the README shows no Python code"
    assert len(blocks) == text.count("```python"), "a block is not closed as expected"
    namespace = {"__name__": "__main__"}
    for block in blocks:
        # Blank lines in front, so that a traceback gives the README's line numbers.
        code = "\n" * text.count("\n", 0, block.start("code")) + block["code"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(README), "exec"), namespace)
        if block["output"] is not None:
            assert comparable(printed.getvalue()) == comparable(block["output"])
