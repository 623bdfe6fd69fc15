"""Where a live view is shown, by what the process writes to."""

import io
import os
import pty
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace

import live_statuses as statuses
import nbclient
import nbformat
import pytest
import rich.console

import keras_freeze as kf
from keras_freeze.live import displays
from keras_freeze.live.displays import (
    Lines,
    LivePanel,
    NotebookDisplay,
    Occasion,
    PanelsAboveBar,
    display_for,
)
from keras_freeze.live.panel import as_panel
from keras_freeze.live.status import FitState


class Shell:
    """Stands for IPython's shell in a notebook's kernel."""

    def __init__(self, kernel="a kernel"):
        self.kernel = kernel
        self.registered = []
        self.events = SimpleNamespace(
            register=lambda name, function: self.registered.append((name, function)),
            unregister=lambda name, function: self.registered.remove((name, function)),
        )


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets what the process writes to."""

    def choose(shell=None, *, is_terminal=False):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        console = SimpleNamespace(is_terminal=is_terminal, is_dumb_terminal=False)
        own = rich.console.Console
        monkeypatch.setattr(
            displays.rich.console, "Console", lambda **given: own(**given) if given else console
        )

    return choose


@pytest.mark.parametrize(
    ("shell", "is_terminal", "has_bar", "form", "kind"),
    [
        (None, False, True, "auto", Lines),
        (None, True, True, "auto", PanelsAboveBar),
        (None, True, False, "auto", LivePanel),
        (None, False, False, "terminal", PanelsAboveBar),
        (None, True, False, "lines", Lines),
        (Shell(), False, True, "auto", NotebookDisplay),
        (Shell(), False, False, "notebook", NotebookDisplay),
        (Shell(), False, True, "lines", Lines),
        (Shell(kernel=None), True, False, "auto", PanelsAboveBar),  # IPython at a prompt
    ],
)
def test_the_form_is_chosen(environment, shell, is_terminal, has_bar, form, kind):
    environment(shell, is_terminal=is_terminal)
    display = display_for(form, has_bar=has_bar, on_end_of_cell=lambda error: None)
    assert type(display) is kind
    display.close()


def test_no_notebook_no_display_in_one(environment):
    environment()
    with pytest.raises(ValueError, match=r"LiveView\(form=...\) must be \"auto\", \"terminal\" or"):
        display_for("notebook", has_bar=True, on_end_of_cell=lambda error: None)


def test_without_ipython_there_is_no_notebook(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert displays.notebook_shell() is None


def test_one_output_of_a_notebook_is_updated(environment, monkeypatch):
    import IPython.display

    shown, updates, ended = [], [], []
    handle = SimpleNamespace(update=lambda data, raw: updates.append(data))
    monkeypatch.setattr(
        IPython.display, "display", lambda data, raw, display_id: shown.append(data) or handle
    )
    shell = Shell()
    environment(shell)
    display = NotebookDisplay(ended.append)
    display.show(statuses.running(), Occasion.PHASE)
    display.show(statuses.done(), Occasion.END)
    assert len(shown) == len(updates) == 1
    assert set(shown[0]) == {"text/html", "text/plain"}
    assert "Epoch 7 of 12" in shown[0]["text/plain"]
    assert "Done: 12 epochs" in updates[0]["text/html"]
    ((name, at_end),) = shell.registered
    assert name == "post_run_cell"
    elsewhere = threading.Thread(target=at_end)  # where the fit doesn't run
    elsewhere.start()
    elsewhere.join()
    at_end(SimpleNamespace(error_in_exec=KeyboardInterrupt()))
    assert [type(error) for error in ended] == [KeyboardInterrupt]
    display.close()
    display.close()
    assert shell.registered == []


def test_lines(capsys):
    display = Lines()
    display.show(statuses.running(), Occasion.PHASE)
    display.show(statuses.running(), Occasion.STEP)
    display.show(statuses.running(), Occasion.EPOCH)
    display.say("Epoch 3/12: block5 unfreezes.", in_epoch=True)
    display.show(statuses.done(), Occasion.END)
    first, epoch, said, last = capsys.readouterr().out.splitlines()
    assert first == "Phase 2 of 4, ends: after 4 epochs."
    assert epoch.startswith("Epoch 6/12: loss 0.6667")
    assert said == "Epoch 3/12: block5 unfreezes."
    assert last == "Done: 12 epochs in 4 min 12 s."


def test_between_bars_there_is_a_panel_at_each_phase_and_a_line_after_each_epoch(capsys):
    display = PanelsAboveBar()
    display.show(statuses.running(), Occasion.EPOCH)
    display.show(statuses.running(), Occasion.STEP)
    assert capsys.readouterr().out == "Phase: about 40 s left; fit: about 3 min left.\n"
    display.say("said", in_epoch=True)
    display.say("said", in_epoch=False)
    assert capsys.readouterr().out == "\nsaid\nsaid\n"
    display.show(statuses.running(), Occasion.PHASE)
    assert "Phase 2 of 4, ends: after 4 epochs" in capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 80, 100])
@pytest.mark.parametrize("status", [statuses.running(), statuses.running(30, statuses.LONG, 12)])
def test_a_panel_fits_its_width(width, status):
    console = rich.console.Console(file=io.StringIO(), width=width)
    console.print(as_panel(status, width))
    lines = console.file.getvalue().splitlines()
    assert {len(line) for line in lines} == {width}
    assert len(lines) < 24
    assert any("1.0e-03" in line for line in lines)


def test_names_are_no_markup():
    console = rich.console.Console(file=io.StringIO(), width=80)
    console.print(as_panel(statuses.running(name="[bold]block{}[/bold]", state=FitState.DONE), 80))
    assert "[bold]block3[/bold]" in console.file.getvalue()


SCRIPT = """
    import keras, numpy as np
    import keras_freeze as kf
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(1, name="head")]
    )
    model.compile("sgd", "mse", run_eagerly=True)
    x, y = np.ones((8, 4), "float32"), np.ones((8, 1), "float32")
    callback = kf.GradualUnfreeze({0: "head", 1: "low"}, backbone="low", cache=False)
"""


def in_a_terminal(code):
    """Run a script in a pseudo-terminal, and return what it writes."""
    source = textwrap.dedent(SCRIPT) + textwrap.dedent(code)
    outer, inner = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "40"}
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdout=inner, stderr=subprocess.DEVNULL, env=environment
    )
    os.close(inner)
    written = b""
    while True:
        try:
            part = os.read(outer, 65536)
        except OSError:  # Linux says so that the other end is closed
            break
        if not part:
            break
        written += part
    os.close(outer)
    return process.wait(), written.decode()


@pytest.mark.slow
def test_a_panel_at_the_bottom_of_a_terminal_ends_as_the_fit_does():
    code, text = in_a_terminal(
        "model.fit(x, y, epochs=2, verbose=0, callbacks=[callback, kf.LiveView()])\nprint('after')"
    )
    assert code == 0
    assert text.count("Epoch 2/2: low unfreezes") == 1
    assert text.rindex("Done: 2 epochs") < text.rindex("after")
    assert not text.rstrip().endswith("\x1b[?25l")
    code, text = in_a_terminal(
        "stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: 1 / 0)\n"
        "model.fit(x, y, epochs=2, verbose=0, callbacks=[callback, stop, kf.LiveView()])"
    )
    assert code == 1
    assert "Interrupted in epoch 1 of 2" in text
    assert text.rindex("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is seen


@pytest.mark.slow
def test_in_a_terminal_with_a_bar_panels_stand_between_bars():
    code, text = in_a_terminal("model.fit(x, y, epochs=2, callbacks=[callback, kf.LiveView()])")
    assert code == 0
    plain = text.replace("\r\n", "\n")
    first, second = plain.index("Epoch 1/2\n"), plain.index("Epoch 2/2\n")
    assert plain.index("Phase 1 of 2") < first < plain.index("Phase 2 of 2") < second
    assert second < plain.index("Done: 2 epochs")
    assert "step" in plain[second:]


def run_notebook(*cells, allow_errors=False):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in (SCRIPT, *cells)]
    )
    client = nbclient.NotebookClient(
        notebook,
        timeout=300,
        allow_errors=allow_errors,
        extra_arguments=["--IPKernelApp.capture_fd_output=False"],
    )
    return client.execute().cells[1:]


def displayed(cell):
    return [o.data for o in cell.outputs if "text/html" in o.get("data", {})]


def printed(cell):
    return "".join(o.text for o in cell.outputs if o.get("name") == "stdout")


@pytest.mark.slow
def test_a_notebook_shows_it_by_itself():
    by_itself, lines, nothing, beside, interrupted, failed = run_notebook(
        "h = model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])",
        "callback.verbose = 2; h = model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])",
        "callback.verbose = 0; h = model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])",
        "h = model.fit(x, y, epochs=1, verbose=0, callbacks=[kf.LiveView(), kf.FreezeGuard()])",
        """
        def interrupt(epoch, logs):
            raise KeyboardInterrupt
        stop = keras.callbacks.LambdaCallback(on_epoch_end=interrupt)
        callback.verbose = 1
        model.fit(x, y, epochs=2, verbose=0, callbacks=[callback, stop])
        """,
        """
        stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: 1 / 0)
        try:
            model.fit(x, y, epochs=2, verbose=0, callbacks=[callback, stop])
        except ZeroDivisionError:
            pass
        h = model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
        """,
        allow_errors=True,
    )
    (data,) = displayed(by_itself)
    assert printed(by_itself) == ""
    for part in ("Done: 2 epochs", "Phase 2 of 2", "low unfreezes at", "<svg"):
        assert part in data["text/html"], part
    assert "low unfreezes at" in data["text/plain"]
    assert displayed(lines) == displayed(nothing) == []
    assert "low unfreezes at" in printed(lines)
    assert printed(nothing) == ""
    assert "Done: 1 epoch" in displayed(beside)[0]["text/html"]
    assert "Interrupted in epoch 1 of 2" in displayed(interrupted)[0]["text/html"]
    first, second = displayed(failed)
    assert "Interrupted in epoch 1 of 2" in first["text/html"]
    assert "Done: 2 epochs" in second["text/html"]


def test_it_is_exported():
    assert repr(kf.LiveView("lines", interval_s=2)) == "LiveView(form='lines', interval_s=2)"
