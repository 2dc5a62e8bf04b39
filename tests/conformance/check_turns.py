"""A backend that runs one stream at a time: all get their own text, in turn, and who leaves makes room."""

import time

import grpc
from skipstone.v1 import generation_pb2 as wire

from client import Context, Neighbours, Stream, failure_of, generate, ids_of, text_spec
from report import expect, expect_equal, expect_within

AT_ONCE = 8
TOKENS = 24
ENDLESS = 2000
RELEASE_SECONDS = 5.0
DEADLINE_MILLISECONDS = 700

STARTS = ("One morning the baker", "import sys\n\ndef main():", "Dear madam,", "The capital of France is",
          "1, 2, 3, 4,", "To be or not to be,", "Roses are red,", "SELECT name FROM")


def run(context: Context) -> None:
    check = context.report.check
    with check(f"{AT_ONCE} clients at once get what each gets alone"):
        own_text(context)
    with check("a cancelled stream makes room for the next"):
        cancelled(context)
    with check("a deadline ends a stream that runs and one that waits"):
        deadlines(context)
    with check("what the streams beside the next checks say alone"):
        Neighbours.prepare(context)


def own_text(context: Context) -> None:
    specs = [text_spec(start, TOKENS) for start in STARTS[:AT_ONCE]]
    alone = [generate(context, spec) for spec in specs]
    expect_equal(len({reply.text for reply in alone}), AT_ONCE, "different texts, or nothing could be mixed up")
    began = time.monotonic()
    streams = [Stream(context, spec) for spec in specs]
    for stream, reply in zip(streams, alone):
        result = stream.result()
        expect_equal((result.text, ids_of(result)), (reply.text, ids_of(reply)), "text and tokens")
    seconds = time.monotonic() - began
    context.report.note(f"{AT_ONCE * TOKENS} tokens in {seconds:.1f} s, {AT_ONCE * TOKENS / seconds:.1f} a second")


def cancelled(context: Context) -> None:
    first = Stream(context, text_spec("The longest story", ENDLESS))
    first.await_deltas(3)
    second = Stream(context, text_spec("The next in line", 4))
    expect_equal(context.service.running(), 1, "requests_running beside one that waits")
    first.call.cancel()
    expect_equal(first.failure().code(), grpc.StatusCode.CANCELLED, "code")
    expect_equal(len(second.result().tokens), 4, "tokens of the next")
    expect_within(RELEASE_SECONDS, lambda: context.service.running() == 0,
                  lambda: f"requests_running is {context.service.running()}")


def deadlines(context: Context) -> None:
    # As the header alone, which grpcio does not watch: the answer is the service's own.
    header = (("grpc-timeout", f"{DEADLINE_MILLISECONDS}m"),)
    spec = text_spec("The longest story", ENDLESS)
    began = time.monotonic()
    streams = [Stream(context, spec, metadata=header, timeout=None) for _ in range(2)]
    for stream in streams:
        error = stream.failure()
        expect_equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED, f"code; the message is {error.details()!r}")
    seconds = time.monotonic() - began
    expect(seconds < DEADLINE_MILLISECONDS / 1000 + RELEASE_SECONDS, f"they ended after {seconds:.1f} s")
    unary = failure_of(lambda: context.stub.Generate(wire.GenerateRequest(spec=spec), timeout=0.5))
    expect_equal(unary.code(), grpc.StatusCode.DEADLINE_EXCEEDED, "code of the unary call")
