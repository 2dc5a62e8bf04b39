"""Requests through the load balancer, each with an id by which the balancer's log says where it went."""

import itertools
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import grpc
from skipstone.v1 import generation_pb2 as wire
from skipstone.v1 import generation_pb2_grpc as rpc

from client import CALL_SECONDS, text_spec

# Enough for every replica to be home to several; an odd number, so that taking turns does not look
# like sticking.
SESSIONS = tuple(f"session-{number}" for number in range(13))
SHORT_TOKENS = 8


@dataclass(frozen=True)
class Outcome:
    """One request, from the client's side."""

    request_id: str
    session: Optional[str]
    began: float
    ended: float
    error: Optional[str]


class Client:
    """A client of the cluster. Without a service config it tries nothing twice, so it sees what the balancer loses."""

    def __init__(self, address: str, service_config: Optional[Path] = None) -> None:
        options: list = [("grpc.enable_retries", 0)]
        if service_config is not None:
            options = [("grpc.enable_retries", 1), ("grpc.service_config", service_config.read_text())]
        # Connections are shared between channels with equal options; a client has its own.
        options.append(("grpc.use_local_subchannel_pool", 1))
        self.channel = grpc.insecure_channel(address, options)
        self.stub = rpc.GenerationServiceStub(self.channel)

    def tokenize(self, session: Optional[str]) -> Outcome:
        """The cheapest request."""
        request = wire.TokenizeRequest(text="Which way?")
        return self._outcome(self.stub.Tokenize, request, session)

    def generate(self, session: Optional[str]) -> Outcome:
        """A short generation."""
        request = wire.GenerateRequest(spec=text_spec("The sea is", SHORT_TOKENS))
        return self._outcome(self.stub.Generate, request, session)

    @staticmethod
    def _outcome(method: grpc.UnaryUnaryMultiCallable, request: object, session: Optional[str]) -> Outcome:
        request_id, began, error = str(uuid.uuid4()), time.monotonic(), None
        try:
            method(request, timeout=CALL_SECONDS, metadata=metadata(session, request_id))
        except grpc.RpcError as failure:
            error = f"{failure.code().name}: {failure.details()}"
        return Outcome(request_id, session, began, time.monotonic(), error)

    def close(self) -> None:
        """Closes the connection."""
        self.channel.close()


def metadata(session: Optional[str], request_id: str) -> tuple:
    """What a request says beside its message."""
    named = (("x-session-id", session),) if session else ()
    return (("x-request-id", request_id), *named)


class Load:
    """Short generations of all sessions, one after the other from each of some threads, until it is stopped."""

    def __init__(self, client: Client, threads: int) -> None:
        self._client = client
        self._stop = threading.Event()
        self._outcomes: list[Outcome] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(start,), daemon=True) for start in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, start: int) -> None:
        for number in itertools.count(start):
            if self._stop.is_set():
                return
            outcome = self._client.generate(SESSIONS[number % len(SESSIONS)])
            with self._lock:
                self._outcomes.append(outcome)
            if outcome.error:
                # Without the pause a broken cluster would be asked thousands of times a second.
                time.sleep(0.1)

    def stop(self) -> list[Outcome]:
        """What became of all requests."""
        self._stop.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS)
        return self._outcomes
