"""What an operator sees: places freed, overload told, methods counted, a drain that loses nothing. Ends the service."""

import threading

import openai

from check_answers import read
from client import ENDLESS, Context, client_of, failure_of
from report import expect, expect_equal, expect_within

RELEASE_SECONDS = 2.0
# As run.py sets the service up.
PLACES = 8
WAITING = 8
UNENDING = {"logit_bias": {"2": -100, "0": -100}, "max_tokens": ENDLESS}


def run(context: Context) -> None:
    check = context.report.check
    with check("a client that closes its stream frees its place"):
        stream = unending(context)
        expect_equal(context.service.running(), 1, "requests_running beside one stream")
        stream.close()
        expect_idle(context)
    with check("a client that gives up waiting frees its place"):
        short = client_of(context.service.openai_address, timeout=0.5)
        failure_of(openai.APITimeoutError, lambda: Context(context.service, short, context.stub, context.report)
                   .chat(**UNENDING))
        expect_idle(context)
    with check("a full queue is RateLimitError with Retry-After, and the others go on"):
        overload(context)
    with check("the calls are counted by method and code"):
        page = context.service.metrics()
        page.check()
        for method, code in (("ChatCompletions", "OK"), ("ChatCompletions", "INVALID_ARGUMENT"),
                             ("ChatCompletions", "CANCELLED"), ("ChatCompletions", "RESOURCE_EXHAUSTED"),
                             ("ChatCompletions", "NOT_FOUND"), ("Completions", "OK"), ("Models", "OK"),
                             ("Models", "NOT_FOUND")):
            expect(page.value("skipstone_requests_total", method=method, code=code) > 0, f"no {method} {code}")
    with check("a drain lets a running stream finish"):
        drain(context)


def unending(context: Context):
    """A stream that has begun and does not end by itself."""
    stream = context.chat(stream=True, **UNENDING)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            return stream
    return stream


def expect_idle(context: Context) -> None:
    expect_within(RELEASE_SECONDS, lambda: context.service.running() == 0,
                  lambda: f"requests_running is {context.service.running()}, wanted 0")


def overload(context: Context) -> None:
    streams = [unending(context) for _ in range(PLACES)]
    waiting = [threading.Thread(target=lambda: context.complete(max_tokens=1)) for _ in range(WAITING)]
    for thread in waiting:
        thread.start()
    page = context.service.metrics
    expect_within(RELEASE_SECONDS, lambda: page().value("skipstone_requests_waiting") == WAITING,
                  lambda: "no request waits")
    error = failure_of(openai.RateLimitError, lambda: context.chat())
    expect_equal(error.code, "queue_full", "code")
    expect(int(error.response.headers["retry-after"]) >= 1, "no Retry-After")
    for stream in streams:
        stream.close()
    for thread in waiting:
        thread.join(60)
        expect(not thread.is_alive(), "a request that waited was not served")
    expect_idle(context)


def drain(context: Context) -> None:
    wanted, _ = read(context.chat(max_tokens=200, stream=True))
    stream = context.chat(max_tokens=200, stream=True)
    first = next(stream)
    context.service.terminate()
    rest, chunks = read(stream)
    expect_equal((first.choices[0].delta.content or "") + rest, wanted, "text of the stream")
    expect(chunks[-1].choices[0].finish_reason, "the stream was cut")
    status, _ = context.service.wait()
    expect_equal(status, 0, "exit status")
