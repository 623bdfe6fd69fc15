"""Every notebook runs from top to bottom, and is committed with the outputs of such a run.

Called as a script, by `make notebooks`, this runs them and keeps the new outputs.
"""

import textwrap
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
TIMEOUT_S = 900  # for a cell, also where other tests run beside it


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def run(path, folder):
    """Return the notebook as a new run in `folder` leaves it; raise if a cell does."""
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
        # TensorFlow's start-up messages, which no setting silences, don't belong to a cell.
        extra_arguments=["--IPKernelApp.capture_fd_output=False"],
    )
    return client.execute()


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_those_of_one_run(path):
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_error_that_a_cell_is_to_show_has_occurred(path):
    cells = code_cells(nbformat.read(path, as_version=4))
    assert all(cell.outputs for cell in cells if "\nexcept " in cell.source)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    assert all(cell.execution_count for cell in code_cells(run(path, tmp_path)))


@pytest.mark.landing
def test_each_picture_is_shown_once(tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND")  # so that the kernel takes the notebook's own
    ours = """
        import matplotlib.pyplot as plt
        from keras_freeze import plots
        log = {"loss": [1.0, 0.5], "trainable_params": [1, 2], "non_trainable_params": [1, 0]}
        plots.training(log)
    """
    cells = [
        nbformat.v4.new_code_cell(textwrap.dedent(ours)),
        nbformat.v4.new_code_cell("figure = plots.training(log)"),
        nbformat.v4.new_code_cell("figure"),
        nbformat.v4.new_code_cell("plt.plot([1, 2]);"),
    ]
    path = tmp_path / "pictures.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    for cell in code_cells(run(path, tmp_path)):
        shown = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        assert len(shown) == 1, cell.source


if __name__ == "__main__":
    for path in NOTEBOOKS:
        nbformat.write(run(path, path.parent), path)
