"""The project's files agree with each other, and importing the package stays cheap."""

import ast
import configparser
import importlib
import importlib.metadata
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import types
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import keras_freeze

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_freeze"


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def requirements():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return {Requirement(line) for line in lines if line and not line.startswith("#")}


def extra(name):
    """Return the requirements of an extra, with the extras that it refers to opened."""
    found = set()
    for line in setup_cfg()["options.extras_require"][name].strip().splitlines():
        requirement = Requirement(line)
        if requirement.name == "keras_freeze":
            found |= {r for other in requirement.extras for r in extra(other)}
        else:
            found.add(requirement)
    return found


def project_files():
    """Return the files that git holds or would take; in an unpacked archive, all of them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        return [p for p in ROOT.rglob("*") if p.is_file() and ".venv" not in str(p)]
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


# Requirements ---------------------------------------------------------------------------


def test_setup_cfg_reads_requirements_txt():
    assert setup_cfg()["options"]["install_requires"] == "file: requirements.txt"


def test_requirements_have_lower_bounds_that_this_environment_meets():
    for requirement in requirements():
        assert any(s.operator == ">=" for s in requirement.specifier), requirement
        assert importlib.metadata.version(requirement.name) in requirement.specifier


def imported_packages(path):
    """Return the top-level packages that a module imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def test_every_imported_package_is_required():
    declared = {
        r.name.lower()
        for r in requirements()
        | extra("demo")
        | extra("backends")
        | extra("optuna")
        | extra("isolate")
    }
    # A notebook that shows our HTML has the one; results are dicts without the other. TensorFlow
    # brings the third, and KerasTuner itself needs it for a chief and workers.
    provided = declared | {"ipython", "pandas", "grpcio"}
    distributions = importlib.metadata.packages_distributions()
    for path in PACKAGE.rglob("*.py"):
        for package in set(imported_packages(path)) - {"keras_freeze"}:
            if package not in sys.stdlib_module_names:
                names = {name.lower() for name in distributions.get(package, [package])}
                assert names & provided, f"{path.name} imports {package}, which nothing requires"


# Version and names ----------------------------------------------------------------------


def test_version_is_written_in_one_place():
    assert setup_cfg()["metadata"]["version"] == "attr: keras_freeze.__version__"
    assert "\nversion:" not in (ROOT / "CITATION.cff").read_text()


def test_version_can_be_read_without_importing_keras():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (assignment,) = (
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    )
    assert ast.literal_eval(assignment.value) == keras_freeze.__version__


def test_changelog_has_this_version():
    assert f"\n## [{keras_freeze.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def modules():
    """Return the names of the package's modules, but `__main__`, which would run."""
    found = pkgutil.walk_packages(keras_freeze.__path__, "keras_freeze.")
    return ["keras_freeze", *(m.name for m in found if not m.name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_all_is_sorted_and_exists(name):
    module = importlib.import_module(name)
    exported = list(getattr(module, "__all__", []))
    # Constants first, then classes, then functions, as ruff sorts them.
    order = sorted(set(exported), key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert exported == order
    assert all(getattr(module, item, None) is not None for item in exported)


def test_all_is_complete():
    public = {
        name
        for name, value in vars(keras_freeze).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public <= set(keras_freeze.__all__)
    for module in (keras_freeze, keras_freeze.tuning):
        assert {name for name in dir(module) if not name.startswith("_")} == set(module.__all__)
    assert len(keras_freeze.__all__) > 0


# Imports --------------------------------------------------------------------------------

OPTIONAL = ["IPython", "keras_tuner", "matplotlib", "skimage", "sklearn", "yaml"]


def run_python(code):
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_import_is_cheap_and_needs_nothing_optional():
    """Beside Keras it imports the standard library and what hashes samples and keeps features.

    Keras imports some of what is optional where it finds it, so that is hidden from it too.
    """
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL}))\n"
        "import keras; before = set(sys.modules); import keras_freeze\n"
        "print(*{name.partition('.')[0] for name in sys.modules.keys() - before})"
    )
    imported = set(run_python(code).split()) - sys.stdlib_module_names
    assert imported <= {"keras_freeze", "lmdb", "xxhash"}


# Dockerfile and Makefile ----------------------------------------------------------------


def docker_lines(instruction):
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return [
        line.removeprefix(instruction).strip() for line in lines if line.startswith(instruction)
    ]


def makefile_recipe(target):
    text = (ROOT / "Makefile").read_text()
    match = re.search(rf"^{re.escape(target)}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    return [line.strip() for line in match[1].splitlines()]


def test_dockerfile_copies_what_exists():
    copied = [source for line in docker_lines("COPY") for source in line.split()[:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert set(copied) == kept, "what .dockerignore lets through"


def test_dockerfile_copies_what_the_build_reads():
    needed = {"requirements.txt", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"}
    copied = {source for line in docker_lines("COPY") for source in line.split()[:-1]}
    assert needed | {"keras_freeze"} <= copied


def test_docker_run_does_what_make_demo_does():
    (entrypoint,), (command,) = docker_lines("ENTRYPOINT"), docker_lines("CMD")
    (recipe,) = makefile_recipe("demo")
    executable, *arguments = shlex.split(recipe)
    assert executable == "$(DEMO_BIN)/python"
    assert ast.literal_eval(entrypoint) + ast.literal_eval(command) == ["python", *arguments]
    assert '".[demo]"' in docker_lines("RUN")[-1]
    assert any('".[demo]"' in line for line in makefile_recipe(".venv-demo/installed"))


def test_dockerfile_python_is_supported():
    (image,) = docker_lines("FROM")
    version = re.fullmatch(r"python:(\d+\.\d+)-slim", image)[1]
    assert version in SpecifierSet(setup_cfg()["options"]["python_requires"])
    assert f":: {version}\n" in setup_cfg()["metadata"]["classifiers"] + "\n"


# What is shipped ------------------------------------------------------------------------


def test_what_make_starts_keeps_what_it_compiles():
    command = ["make", "--silent", "--eval", "variables:; @env", "variables"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "PATH=" in ran.stdout
    assert "PYTHONDONTWRITEBYTECODE" not in ran.stdout


def test_no_file_names_a_machine():
    pattern = re.compile(r"(?<![\w.~-])/(?:tmp|work|home|root|Users)/\w")
    text = {".py", ".md", ".cfg", ".toml", ".txt", ".yaml", ".yml", ".cff", ".ipynb", ""}
    named = [
        f"{path.relative_to(ROOT)}: {line.strip()[:100]}"
        for path in project_files()
        if path.suffix in text and path != Path(__file__)
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if pattern.search(line)
    ]
    assert named == []


@pytest.mark.landing
def test_wheel_has_the_package_its_types_and_its_requirements(tmp_path):
    source = tmp_path / "source"
    for path in project_files():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    built = map(str, [*tmp_path.glob("*.whl"), *tmp_path.glob("*.tar.gz")])
    check = [sys.executable, "-m", "twine", "check", "--strict", *built]
    subprocess.run(check, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"keras_freeze-{keras_freeze.__version__}-py3-none-any")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(n) for n in names if n.endswith(".dist-info/METADATA"))
    assert "keras_freeze/py.typed" in names
    assert {n for n in names if n.endswith(".py")} == {
        str(p.relative_to(ROOT))
        for p in project_files()
        if PACKAGE in p.parents and p.suffix == ".py"
    }
    assert any(n.endswith("LICENSE") for n in names)
    required = {Requirement(r) for r in message_from_bytes(metadata).get_all("Requires-Dist")}
    assert requirements() == {r for r in required if r.marker is None}
    assert (tmp_path / f"keras_freeze-{keras_freeze.__version__}.tar.gz").exists()
