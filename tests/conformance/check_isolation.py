"""One stream's end is nobody else's business: cancelled, out of time, or its client killed."""

import subprocess
import sys
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from skipstone.v1 import generation_pb2 as wire

from client import LIGHT, OFF, Context, Neighbours, Stream, failure_of, speculation, text_spec
from report import expect, expect_equal, expect_within

RELEASE_SECONDS = 2.0
# More than any machine generates before the check is over.
ENDLESS = 2000
DEADLINE_SECONDS = 0.5


def run(context: Context) -> None:
    check = context.report.check
    with check("what the streams beside the next checks say alone"):
        Neighbours.prepare(context)
    with check("a cancelled stream leaves the batch, alone"):
        victim = Stream(context, text_spec("The longest story", ENDLESS, speculation=LIGHT))
        victim.await_deltas(3)
        expect_equal(context.service.running(), 1, "requests_running beside one stream")
        victim.call.cancel()
        expect_equal(victim.failure().code(), grpc.StatusCode.CANCELLED, "code")
        expect_running_within(context, 0)
    with check("a cancelled stream leaves the others as they were"):
        cancelled(context)
    with check("a passed deadline is DEADLINE_EXCEEDED and leaves the others as they were"):
        deadlines(context)
    with check("a client that is killed leaves the others as they were"):
        killed(context)


def expect_running_within(context: Context, most: int) -> None:
    expect_within(RELEASE_SECONDS, lambda: context.service.running() <= most,
                  lambda: f"requests_running is {context.service.running()}, wanted at most {most}")


def cancelled(context: Context) -> None:
    victims = [Stream(context, text_spec("The longest story", ENDLESS, speculation=how))
               for how in (LIGHT, speculation(OFF))]
    neighbours = Neighbours(context)
    for victim in victims:
        victim.await_deltas(3)
        victim.call.cancel()
        expect_equal(victim.failure().code(), grpc.StatusCode.CANCELLED, "code")
    expect_running_within(context, len(neighbours.streams))
    neighbours.expect_running()
    neighbours.expect_unchanged()
    expect_running_within(context, 0)


def deadlines(context: Context) -> None:
    spec = text_spec("The longest story", ENDLESS, speculation=LIGHT)
    neighbours = Neighbours(context)
    # As users set it: grpcio itself gives up at the deadline.
    short = Stream(context, spec, timeout=DEADLINE_SECONDS)
    unary = failure_of(lambda: context.stub.Generate(wire.GenerateRequest(spec=spec), timeout=DEADLINE_SECONDS))
    expect_equal(unary.code(), grpc.StatusCode.DEADLINE_EXCEEDED, "code of the unary call")
    expect_equal(short.failure().code(), grpc.StatusCode.DEADLINE_EXCEEDED, "code of the stream")
    # As the header alone, which grpcio does not watch: the answer is the service's own.
    header = (("grpc-timeout", f"{int(DEADLINE_SECONDS * 1000)}m"),)
    told = Stream(context, spec, metadata=header, timeout=None).failure()
    expect_equal(told.code(), grpc.StatusCode.DEADLINE_EXCEEDED, "code of the stream with a header")
    expect(str(ENDLESS) in told.details(), f"the message does not say how far it got: {told.details()!r}")
    info = error_details_pb2.ErrorInfo()
    details = rpc_status.from_call(told).details
    expect(any(detail.Unpack(info) for detail in details), f"no ErrorInfo among {details}")
    expect_equal(info.reason, "DEADLINE_EXCEEDED", "reason")
    expect_running_within(context, len(neighbours.streams))
    neighbours.expect_running()
    neighbours.expect_unchanged()
    expect_running_within(context, 0)


def killed(context: Context) -> None:
    program = Path(__file__).with_name("endless_client.py")
    victim = subprocess.Popen(
        [sys.executable, str(program), context.service.address, str(ENDLESS)], stdout=subprocess.PIPE, text=True)
    try:
        expect_equal(victim.stdout.readline().strip(), "streaming", "first line of the client")
        neighbours = Neighbours(context)
        expect(victim.poll() is None, "the client ended before it was killed")
        expect_equal(context.service.running(), 1 + len(neighbours.streams), "requests_running")
    finally:
        victim.kill()
        victim.wait()
        victim.stdout.close()
    expect_running_within(context, len(neighbours.streams))
    neighbours.expect_running()
    neighbours.expect_unchanged()
    expect_running_within(context, 0)
