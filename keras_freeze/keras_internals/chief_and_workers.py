"""KerasTuner's chief and workers, where any of them may be killed and started again.

A chief hands out trials by gRPC, and workers train them. KerasTuner's chief waits for a worker that
has died until one of the same name comes back, and its workers fail when the chief is gone. Here
workers send a heartbeat from time to time, also during a trial, so that a chief can tell a long
trial from a dead worker; and they wait for a chief that is started again.

It is imported where a search has a chief: gRPC comes with TensorFlow, and not with other backends.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from keras_tuner.src import protos
from keras_tuner.src.distribute import oracle_chief, oracle_client

from keras_freeze.keras_internals.keras_tuner import HEARTBEAT
from keras_freeze.keras_internals.required import require

PRIVATE = (
    (oracle_chief, "OracleServicer"),
    (oracle_client, "OracleClient", "TIMEOUT"),
    (protos, "get_service", "get_service_grpc"),
)

# Between two questions of a worker that waits for the others' trials.
_ASK_S = 1.0
# Between two looks of a chief at whether all is over.
_LOOK_S = 0.5
# For the last answers of a chief.
_LAST_ANSWERS_S = 5.0


def check() -> None:
    """Raise one clear error if chief and workers can't work with the installed KerasTuner."""
    for owner, *names in PRIVATE:
        require("search with a chief and workers", "keras-tuner", owner, *names)


check()


def serve(oracle: Any, is_over: Callable[[], bool]) -> None:
    """Hand out an oracle's trials to workers until the search is over.

    Args:
        oracle: `keras_tuner.Oracle`, whose methods one thread of the server calls.
        is_over: Called in the thread of the caller, every half second.

    Raises:
        OSError: if the address is not free.
    """
    address = _address()
    # Two chiefs at one port would each answer some of the questions.
    options = [("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1), options=options)
    servicer = oracle_chief.OracleServicer(oracle)
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(
            f"The chief of a search can't listen at {address}: {error}. Another chief may run "
            "there; end it, or pass another port in KERASTUNER_ORACLE_PORT, to the workers as well."
        ) from error
    server.start()
    try:
        while not is_over():
            time.sleep(_LOOK_S)
    finally:
        server.stop(_LAST_ANSWERS_S).wait()


class ChiefsOracle(oracle_client.OracleClient):
    """The chief's oracle, as a worker sees it; it waits for a chief that is started again.

    Args:
        oracle: `keras_tuner.Oracle` of this process, which is only asked for its settings.
        limit_s: Float, seconds that a chief may be silent.
    """

    def __init__(self, oracle: Any, limit_s: float) -> None:
        super().__init__(oracle)
        self.limit_s = limit_s
        # What a single call waits for a chief.
        oracle_client.TIMEOUT = limit_s

    @contextlib.contextmanager
    def with_heartbeats(self, every_s: float) -> Iterator[None]:
        """Tell the chief inside that this worker lives, from time to time."""
        over = threading.Event()
        thread = threading.Thread(target=self._beat, args=(over, every_s), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _beat(self, over: threading.Event, every_s: float) -> None:
        name = HEARTBEAT + self.tuner_id
        request = protos.get_service().CreateTrialRequest(tuner_id=name)
        while not over.wait(every_s):
            with contextlib.suppress(grpc.RpcError):  # the chief is gone, or has much to do
                self.stub.CreateTrial(request, timeout=every_s)

    def create_trial(self, tuner_id: str) -> Any:
        """Return the next trial, once there is one or none is left."""
        while True:
            trial = self._patiently(super().create_trial, tuner_id)
            if trial.status != "IDLE":
                return trial
            time.sleep(_ASK_S)

    def update_trial(self, trial_id: str, metrics: Any, step: int = 0) -> Any:
        """Tell the chief the metrics of a trial."""
        return self._patiently(super().update_trial, trial_id, metrics, step)

    def end_trial(self, trial: Any) -> None:
        """Tell the chief how a trial ended."""
        self._patiently(super().end_trial, trial)

    def get_trial(self, trial_id: str) -> Any:
        """Return a trial."""
        return self._patiently(super().get_trial, trial_id)

    def get_best_trials(self, num_trials: int = 1) -> Any:
        """Return the best trials."""
        return self._patiently(super().get_best_trials, num_trials)

    def get_space(self) -> Any:
        """Return the hyperparameters."""
        return self._patiently(super().get_space)

    def update_space(self, hyperparameters: Any) -> None:
        """Tell the chief hyperparameters that are new."""
        self._patiently(super().update_space, hyperparameters)

    def _patiently(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call the chief again where it has gone meanwhile; what it was told twice counts once."""
        end = time.monotonic() + self.limit_s
        while True:
            try:
                return call(*args)
            except grpc.RpcError as error:
                code = error.code()
                gone = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
                if code not in gone:
                    raise
                if time.monotonic() >= end:
                    raise TimeoutError(
                        f"The chief at {_address()} has not answered {self.tuner_id} for "
                        f"{self.limit_s:.0f} s. Start the chief again, without overwrite=True, "
                        "and then this worker: the search continues where it was."
                    ) from error
            time.sleep(_ASK_S)


def _address() -> str:
    return f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
