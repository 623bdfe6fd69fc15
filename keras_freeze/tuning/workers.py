"""Run a search as one chief and several workers on this machine.

    python -m keras_freeze.tuning.workers --workers 2 search.py

KerasTuner's own parallel mode: every process runs the same script, with its part in environment
variables. The chief hands out trials, the workers train; they share the search's folder. A worker
that dies is restarted, and so is a chief that was killed: the workers wait for it.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

CHIEF = "chief"
ADDRESS = "127.0.0.1"
RESTARTS = 3
POLL_S = 0.5
LINES_SHOWN = 20
# What a chief gets to end where no worker is left.
PATIENCE_S = 30.0
# What a process has to write its files after a request to end.
TERMINATION_S = 10.0


class Team:
    """One chief and its workers, as processes.

    Args:
        command: What each of them runs.
        workers: Int, how many.
        logs: Folder for what they print, a file each.
        port: Int, where the chief listens. Defaults to a free one.
        restarts: Int, how often a worker that dies is restarted, and a chief that a signal ended.
            Defaults to 3.
        patience_s: Float, seconds that the chief gets to end once no worker is left and one of
            them is no longer restarted. Defaults to 30.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        logs: Path,
        *,
        port: int | None = None,
        restarts: int = RESTARTS,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.command = tuple(command)
        self.logs = logs
        self.port = port or _free_port()
        self.workers = [f"worker_{n}" for n in range(workers)]
        self.restarts_left = dict.fromkeys([CHIEF, *self.workers], restarts)
        self.patience_s = patience_s
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self) -> int:
        """Start them all, and wait until the search is over.

        Returns:
            Int, the chief's exit status; 1 if no worker is left.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        for name in self.restarts_left:
            self._log(name).unlink(missing_ok=True)  # of an earlier run
        try:
            for name in self.restarts_left:
                self._start(name)
            count = len(self.workers)
            print(f"1 chief and {count} workers; what they print is in {self.logs}.")
            return self._watch()
        finally:
            self._end()
            self._print_end_of(CHIEF)

    def _watch(self) -> int:
        alone_since = None
        while True:
            status = self.processes[CHIEF].poll()
            if status is not None and (status >= 0 or not self.restarts_left[CHIEF]):
                return int(status)
            if status is not None:
                self._died(CHIEF, status)
            for name in self.processes.keys() - {CHIEF}:
                status = self.processes[name].poll()
                if status:
                    self._died(name, status)
            workers = [process for name, process in self.processes.items() if name != CHIEF]
            is_incomplete = len(workers) < len(self.workers)
            if is_incomplete and all(worker.poll() is not None for worker in workers):
                alone_since = alone_since or time.monotonic()
                if time.monotonic() - alone_since > self.patience_s:
                    print(f"The chief waits for a worker that is not restarted. See {self.logs}.")
                    return 1
            time.sleep(POLL_S)

    def _end(self) -> None:
        """End the processes, with time to write their files."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(TERMINATION_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _died(self, name: str, status: int) -> None:
        del self.processes[name]
        if self.restarts_left[name]:
            self.restarts_left[name] -= 1
            print(f"{name} died (status {status}) and is restarted.")
            self._start(name)
        else:
            print(f"{name} died (status {status}) and is not restarted.")
            self._print_end_of(name)

    def _print_end_of(self, name: str) -> None:
        lines = self._log(name).read_text(errors="replace").splitlines()
        print("\n".join([f"The last lines of {self._log(name)}:", *lines[-LINES_SHOWN:]]))

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _start(self, name: str) -> None:
        part = {
            "KERASTUNER_TUNER_ID": name,
            "KERASTUNER_ORACLE_IP": ADDRESS,
            "KERASTUNER_ORACLE_PORT": str(self.port),
        }
        with self._log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.command, env={**os.environ, **part}, stdout=log, stderr=subprocess.STDOUT
            )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((ADDRESS, 0))
        return int(found.getsockname()[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the search that the arguments name.

    Args:
        arguments: Sequence of strings. Defaults to those of the process.

    Returns:
        Int, the exit status.
    """
    parser = argparse.ArgumentParser("python -m keras_freeze.tuning.workers")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="default: %(default)s")
    parser.add_argument("--port", type=int, help="where the chief listens (default: a free one)")
    parser.add_argument(
        "--logs", type=Path, default=Path("search-logs"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("script", help="the search, with its arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers must be at least 1. Received: {options.workers}.")
    if not options.script:
        parser.error("a script is missing: what every process runs.")
    if not options.script[0].startswith("-") and not Path(options.script[0]).is_file():
        parser.error(f"the script must be a file. Received: {options.script[0]}.")
    command = [sys.executable, *options.script]
    return Team(command, options.workers, options.logs, port=options.port).run()


if __name__ == "__main__":
    sys.exit(main())
