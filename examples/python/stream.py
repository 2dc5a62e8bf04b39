"""Streams one chat answer from Skipstone, with a deadline and a retry policy.

Set up, in the root of the checkout:

    python3 -m venv .venv && mkdir .venv/stubs
    .venv/bin/pip install --requirement examples/python/requirements.txt
    .venv/bin/python -m grpc_tools.protoc --proto_path=proto --python_out=.venv/stubs --pyi_out=.venv/stubs \\
        --grpc_python_out=.venv/stubs skipstone/v1/generation.proto

Run, against a service or a load balancer in front of several:

    PYTHONPATH=.venv/stubs .venv/bin/python examples/python/stream.py "Why is the sky blue?"

The answer goes to standard output as it comes, and a line about tokens and drafts to standard error.

What a client should know:

* Deadline. `--deadline` becomes the deadline of the call. It bounds the whole generation, waiting included, and the
  service stops working on the request when it passes. The call then ends with DEADLINE_EXCEEDED.
* Retries. examples/grpc-service-config.json makes the channel try again after UNAVAILABLE (a replica went away or is about
  to) and RESOURCE_EXHAUSTED (the queue is full; the service says how long to wait). gRPC does this by itself until the first
  message has come, and stays within the deadline. Later failures reach the caller. A greedy request can then be
  sent again and gives the same text; a seeded one does with drafting off or static.
* Sessions. `--session` sends the metadata key x-session-id. A load balancer keeps a session on one replica, which is then
  quicker at guessing its text. The answer is the same everywhere.
* Request ids. The id in `started` is also in the service's log and in the load balancer's. Quote it when something went
  wrong. Send x-request-id to choose it.
* Cancelling. Leaving the loop over the stream and calling `cancel()`, or ending the program, stops the generation.
* Encryption. The service itself has none; where the load balancer adds it, use `grpc.secure_channel`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
from skipstone.v1 import generation_pb2 as wire
from skipstone.v1 import generation_pb2_grpc as rpc

SERVICE_CONFIG = Path(__file__).resolve().parents[1] / "grpc-service-config.json"

# What a person can do about a failure, where the status alone does not say it.
REMEDIES = {
    grpc.StatusCode.UNAVAILABLE: "is the service running at this address?",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "the service is full; try again later",
    grpc.StatusCode.DEADLINE_EXCEEDED: "allow more time with --deadline, or ask for fewer tokens",
}


@dataclass(frozen=True)
class Options:
    """The command line."""

    address: str
    question: str
    session: str | None
    deadline: float
    max_new_tokens: int
    temperature: float


def parse(arguments: list[str]) -> Options:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Streams one chat answer from Skipstone.")
    parser.add_argument("question")
    parser.add_argument("--address", default="127.0.0.1:50051", help="HOST:PORT of the service (default: %(default)s)")
    parser.add_argument("--session", help="keeps requests of equal sessions on one replica")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds for everything (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    return Options(**vars(parser.parse_args(arguments)))


def connect(address: str) -> grpc.Channel:
    """A channel that retries by the service config and notices dead connections."""
    return grpc.insecure_channel(
        address,
        options=[
            ("grpc.service_config", SERVICE_CONFIG.read_text()),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
        ],
    )


def request_of(options: Options) -> wire.GenerateStreamRequest:
    """One question to the model, in its own chat format."""
    message = wire.ChatMessage(role=wire.ROLE_USER, content=options.question)
    spec = wire.GenerationSpec(
        chat=wire.ChatInput(messages=[message]),
        sampling=wire.SamplingParams(temperature=options.temperature),
        stop=wire.StopCriteria(max_new_tokens=options.max_new_tokens),
    )
    return wire.GenerateStreamRequest(spec=spec)


def answer(channel: grpc.Channel, options: Options) -> Iterator[str | wire.StreamFinished]:
    """The pieces of the text, then what the generation cost."""
    metadata = (("x-session-id", options.session),) if options.session else ()
    stub = rpc.GenerationServiceStub(channel)
    for message in stub.GenerateStream(request_of(options), timeout=options.deadline, metadata=metadata):
        if message.HasField("delta"):
            yield message.delta.text
        elif message.HasField("finished"):
            yield message.finished


def summary(finished: wire.StreamFinished) -> str:
    """One line about a finished stream."""
    drafts = finished.speculation
    reason = wire.FinishReason.Name(finished.finish.reason).removeprefix("FINISH_REASON_").lower()
    line = f"{finished.usage.completion_tokens} tokens, ended by {reason}; "
    line += f"{drafts.accepted_tokens} of {drafts.draft_tokens} drafted tokens accepted"
    if drafts.HasField("estimated_speedup"):
        line += f", {drafts.estimated_speedup:.2f} times the speed of plain decoding"
    return line


def main() -> int:
    """Prints the answer; the exit status says whether it is whole."""
    options = parse(sys.argv[1:])
    with connect(options.address) as channel:
        try:
            for piece in answer(channel, options):
                if isinstance(piece, str):
                    print(piece, end="", flush=True)
                else:
                    print(flush=True)
                    print(summary(piece), file=sys.stderr)
        except grpc.RpcError as error:
            remedy = REMEDIES.get(error.code())
            print(f"\n{options.address}: {error.code().name}: {error.details()}"
                  + (f" ({remedy})" if remedy else ""), file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
