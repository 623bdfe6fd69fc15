"""The documentation is complete, its links lead somewhere, and its code runs; without Sphinx.

`make docs` builds the site with warnings as errors. Here is what a build does not see.
"""

import ast
import contextlib
import inspect
import io
import pkgutil
import re
import types
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest
from pretrained_models import as_if_trained
from test_readme import BLOCK, README, comparable

import keras_freeze
from keras_freeze import explain, plots, policies, schedules, tuning
from keras_freeze.demo import vgg

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = sorted(DOCS.rglob("*.md"))
PAGES = [*SITE, *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"))]
PAGES.append(ROOT / "benchmarks" / "README.md")
# What the pages call the package and its parts.
NAMES = {
    "keras_freeze": keras_freeze,
    "kf": keras_freeze,
    "explain": explain,
    "plots": plots,
    "policies": policies,
    "schedules": schedules,
    "tuning": tuning,
}


def titled(paths):
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def blocks(path):
    return list(BLOCK.finditer(path.read_text(encoding="utf-8")))


# The reference --------------------------------------------------------------------------


def documented():
    """Return the full names of all entries in the reference."""
    names = set()
    for path in (DOCS / "api").glob("*.md"):
        module = "keras_freeze"
        for line in path.read_text(encoding="utf-8").splitlines():
            if found := re.match(r"\.\. (currentmodule|automodule):: (\S+)", line):
                module = found[2]
                names.add(module)
            elif found := re.match(r"\.\. auto(?:class|function|data|method):: (\S+)", line):
                names.add(f"{module}.{found[1]}")
    return names


@pytest.mark.parametrize(
    "module", [keras_freeze, explain, plots, policies, schedules, tuning], ids=lambda m: m.__name__
)
def test_every_public_name_has_an_entry(module):
    public = {f"{module.__name__}.{name}" for name in module.__all__}
    assert public - documented() == set()


def test_every_entry_exists():
    for name in documented():
        pkgutil.resolve_name(name)


@pytest.mark.parametrize("name", sorted(documented()))
def test_sections_of_docstrings_are_indented(name):
    """Else their title is taken for text, and an example is no code."""
    docstring = inspect.getdoc(pkgutil.resolve_name(name)) or ""
    assert not re.search(r"^[A-Z][a-z]+:\n(?=\S)", docstring, re.MULTILINE)


# Links ----------------------------------------------------------------------------------

LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(?:#([^)\s]+))?\)")


def anchors(path):
    """Return the names of a page's headings, as Sphinx and the hosts of repositories make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("path", titled(PAGES))
def test_links_lead_somewhere(path):
    for name, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        target = (path.parent / name).resolve() if name else path
        assert target.is_file(), name
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}"


def test_every_page_is_in_a_table_of_contents():
    listed = {DOCS / "index.md"}
    for path in SITE:
        text = path.read_text(encoding="utf-8")
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {(path.parent / entry).resolve() for entry in entries}
    listed = {path.with_suffix("") for path in listed}
    notebooks = (ROOT / "notebooks").glob("*.ipynb")
    assert {path.with_suffix("") for path in (*SITE, *notebooks)} <= listed


# Code -----------------------------------------------------------------------------------


def public(node, names):
    """Return what an expression names of ours, None where it names no such thing."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = public(node.value, names)
        if isinstance(owner, types.ModuleType | type):
            return getattr(owner, node.attr)  # raises where the page is outdated
    return None


def check_names(code, names):
    """Raise unless what the code imports, reads and calls of ours is there; note its imports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute):
            public(node, names)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("keras_freeze"):
            for alias in node.names:
                names[alias.name] = pkgutil.resolve_name(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Call) and (function := public(node.func, names)):
            parameters = inspect.signature(function).parameters
            keywords = {keyword.arg for keyword in node.keywords}
            takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
            assert takes_any or keywords <= set(parameters), ast.unparse(node)


@pytest.mark.parametrize("path", titled(PAGES))
def test_code_names_what_there_is(path):
    assert len(blocks(path)) == path.read_text(encoding="utf-8").count("```python")
    names = dict(NAMES)
    for block in blocks(path):
        check_names(block["code"], names)


def rows(path):
    """Return our lines in a page's tables: code in a last cell that begins with our names."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            cell = re.split(r"(?<!\\)\|", line)[-2].replace(r"\|", "|")
            for code in re.findall(r"`([^`]+)`", cell):
                if re.match(r"(kf|policies|schedules|tuning)\.", code):
                    yield code


def vgg16(width=4):
    """Return VGG16 for 32×32 pixels with the demo's head, compiled; 64 is its own width."""
    x = inputs = keras.Input((32, 32, 3))
    for block, (convs, factor) in enumerate([(2, 1), (2, 2), (3, 4), (3, 8), (3, 8)], start=1):
        for conv in range(1, convs + 1):
            name = f"block{block}_conv{conv}"
            x = keras.layers.Conv2D(
                width * factor, 3, padding="same", activation="relu", name=name
            )(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    model = vgg.classifier(as_if_trained(keras.Model(inputs, x)), classes=15)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def namespace(model):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 32, 32, 3)).astype("float32"), np.arange(30) % 15
    return {
        **NAMES,
        "keras": keras,
        "hp": keras_tuner.HyperParameters(),
        "model": model,
        "new_model": vgg16,
        "build": vgg16,
        "x": x,
        "y": y,
        "validation": (x, y),
    }


# The head of the model is new: its kernels stay as they are where biases alone train.
@pytest.mark.filterwarnings("ignore:.*are frozen at initial values")
@pytest.mark.parametrize("path", titled(path for path in PAGES if any(rows(path))))
def test_lines_in_tables_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = vgg16()
    schedules.gradual(model).to_yaml("plan.yaml")
    for code in rows(path):
        keras_freeze.unfreeze(model, matching=".", batch_norm="follow")
        result = eval(compile(code, f"{path.name}: {code}", "eval"), namespace(model))
        if isinstance(result, keras_freeze.FreezeScheduler | schedules.FreezeSchedule):
            result.preview(model, 60, steps_per_epoch=10)


# Scripts of several processes; the second is run by tests/engine/test_torch_processes.py.
NOT_RUN = {"parallel-search.md", "several-devices.md"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:keras")
@pytest.mark.parametrize(
    "path", titled(path for path in SITE if blocks(path) and path.name not in NOT_RUN)
)
def test_page_runs_and_prints_what_is_shown(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shows_output = any(block["output"] for block in blocks(path))
    names = namespace(vgg16(64 if shows_output else 4))
    shown_in_readme = {block["code"] for block in blocks(README)}
    for number, block in enumerate(blocks(path), start=1):
        if block["code"] in shown_in_readme:  # and run there
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], f"{path.name}, block {number}", "exec"), names)
        if block["output"]:
            assert comparable(printed.getvalue()) == comparable(block["output"])
