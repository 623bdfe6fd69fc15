"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil

import keras
import pytest

import keras_freeze

GLOBALS = {"keras": keras}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.REPORT_NDIFF
FOUND = pkgutil.walk_packages(keras_freeze.__path__, "keras_freeze.")
MODULES = ["keras_freeze", *(m.name for m in FOUND if not m.name.endswith("__main__"))]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may save a model
    result = doctest.testmod(
        importlib.import_module(name), optionflags=OPTIONS, extraglobs={"keras": keras}
    )
    assert result.failed == 0
