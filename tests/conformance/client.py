"""Requests as a user of the interface would write them, and streams that run beside a check."""

import os
import threading
from dataclasses import dataclass, field
from typing import Callable, Optional

import grpc
from skipstone.v1 import generation_pb2 as wire
from skipstone.v1 import generation_pb2_grpc as rpc

from report import Report, Unmet, expect, expect_equal
from service import Service

OFF = wire.SPECULATION_MODE_OFF
STATIC = wire.SPECULATION_MODE_STATIC
ADAPTIVE = wire.SPECULATION_MODE_ADAPTIVE

# What runs the model. mistral.rs runs one stream at a time, never drafts, and refuses static plans:
# that is checked instead of what needs them.
BACKEND = os.environ.get("CONFORMANCE_BACKEND", "native")
IS_NATIVE = BACKEND == "native"

# Long enough for a slow machine that does other things as well; a call that hangs must fail its
# check, not the run.
CALL_SECONDS = 180
SERVICE_NAME = "skipstone.v1.GenerationService"


@dataclass
class Context:
    """What every check gets."""

    service: Service
    stub: rpc.GenerationServiceStub
    channel: grpc.Channel
    report: Report


def speculation(mode: int, attention: tuple = (), mlp: tuple = (), cap: Optional[int] = None) -> wire.SpeculationParams:
    """How to draft; a skip set only where layers are named. A backend that can't draft is asked for what it takes."""
    if mode == STATIC and not IS_NATIVE:
        return wire.SpeculationParams(mode=ADAPTIVE)
    skip_set = wire.SkipSet(attention_layers=attention, mlp_layers=mlp) if attention or mlp else None
    return wire.SpeculationParams(mode=mode, skip_set=skip_set, max_draft_tokens=cap)


# A static plan whose drafts are accepted often enough to be interesting.
LIGHT = speculation(STATIC, attention=(9, 10, 12), mlp=(10, 11), cap=4)


def text_spec(text: str, tokens: int = 32, **fields) -> wire.GenerationSpec:
    """Greedy text of exactly `tokens` tokens, with the tokens."""
    fields.setdefault("stop", wire.StopCriteria(max_new_tokens=tokens, ignore_end_of_sequence=True))
    fields.setdefault("sampling", wire.SamplingParams(temperature=0.0))
    fields.setdefault("output", wire.OutputOptions(tokens=True))
    return wire.GenerationSpec(text=text, **fields)


def generate(context: Context, spec: wire.GenerationSpec) -> wire.GenerateResponse:
    """The whole result in one reply."""
    return context.stub.Generate(wire.GenerateRequest(spec=spec), timeout=CALL_SECONDS)


def ids_of(reply) -> list[int]:
    """The token ids of anything that has tokens."""
    return [token.id for token in reply.tokens]


@dataclass
class Collected:
    """What a stream brought. Its events came in the promised order, or there is no value of this class."""

    started: wire.StreamStarted
    deltas: list
    finished: wire.StreamFinished
    tokens: list = field(init=False)
    text: str = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = [token for delta in self.deltas for token in delta.tokens]
        self.text = "".join(delta.text for delta in self.deltas)

    @staticmethod
    def of(messages: list) -> "Collected":
        """Checks the order of the events."""
        order = [message.WhichOneof("event") for message in messages]
        wanted = ["started"] + ["delta"] * (len(order) - 2) + ["finished"]
        expect_equal(order, wanted, "order of the events")
        return Collected(messages[0].started, [message.delta for message in messages[1:-1]], messages[-1].finished)


class Stream:
    """A stream that is read in the background."""

    def __init__(self, context: Context, spec: wire.GenerationSpec, **call_options) -> None:
        call_options.setdefault("timeout", CALL_SECONDS)
        self.call = context.stub.GenerateStream(wire.GenerateStreamRequest(spec=spec), **call_options)
        self.messages: list = []
        self.error: Optional[grpc.RpcError] = None
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            for message in self.call:
                with self._changed:
                    self.messages.append(message)
                    self._changed.notify_all()
        except grpc.RpcError as error:
            self.error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether the last message or an error came."""
        with self._changed:
            return self._ended

    def await_deltas(self, count: int) -> None:
        """Waits until some deltas came: the stream is then under way for certain."""
        def enough() -> bool:
            return self._ended or sum(message.HasField("delta") for message in self.messages) >= count

        with self._changed:
            expect(self._changed.wait_for(enough, CALL_SECONDS), f"no {count} deltas within {CALL_SECONDS} s")
            expect(not self._ended, f"a stream ended before its delta {count}: {self.error}")

    def failure(self) -> grpc.RpcError:
        """Waits for the end, which must be an error."""
        self._reader.join(CALL_SECONDS)
        expect(self.ended, f"a stream did not end within {CALL_SECONDS} s")
        expect(self.error is not None, "a stream that should have failed went through")
        return self.error

    def result(self) -> Collected:
        """Waits for the end, which must be a success."""
        self._reader.join(CALL_SECONDS)
        expect(self.ended, f"a stream did not end within {CALL_SECONDS} s")
        if self.error is not None:
            raise Unmet(f"a stream failed with {self.error.code().name}: {self.error.details()}")
        return Collected.of(self.messages)


def stream(context: Context, spec: wire.GenerationSpec) -> Collected:
    """A stream, read to its end."""
    return Stream(context, spec).result()


class Neighbours:
    """Streams that run beside whatever a check does, and whose results must not change by it."""

    # They must outlast what a check does beside them, on a fast machine too, and not take minutes
    # on a slow one.
    SECONDS_ALONE = 2.0
    FEWEST_TOKENS, MOST_TOKENS = (96, 2000) if IS_NATIVE else (24, 48)
    PROMPTS = (
        ("The harbour lay quiet before dawn, and the fishermen", speculation(OFF)),
        ("def fibonacci(n):\n    \"\"\"Return the n-th number.\"\"\"\n", LIGHT),
        ("A short list of the planets, one a line:\n1. Mercury\n2. Venus\n", speculation(ADAPTIVE)),
        ("Bread is made from flour, water, salt and", None),
    )
    tokens: int = 0
    alone: list = []

    @classmethod
    def specs(cls) -> list:
        return [text_spec(prompt, cls.tokens, speculation=how) for prompt, how in cls.PROMPTS]

    @classmethod
    def prepare(cls, context: Context) -> None:
        """Finds how long they must be, and what each says alone and with speculation off."""
        trial = generate(context, text_spec(cls.PROMPTS[0][0], cls.FEWEST_TOKENS, speculation=speculation(OFF)))
        seconds_a_token = trial.timing.decode.ToTimedelta().total_seconds() / cls.FEWEST_TOKENS
        cls.tokens = min(max(cls.FEWEST_TOKENS, int(cls.SECONDS_ALONE / seconds_a_token)), cls.MOST_TOKENS)
        context.report.note(f"{cls.tokens} tokens each")
        for spec in cls.specs():
            spec.speculation.CopyFrom(speculation(OFF))
            reply = generate(context, spec)
            expect_equal(len(reply.tokens), cls.tokens, "tokens of a stream alone")
            cls.alone.append((ids_of(reply), reply.text))

    def __init__(self, context: Context) -> None:
        expect(self.alone, "what the streams say alone is not known; the check before failed")
        self.streams = [Stream(context, spec) for spec in self.specs()]
        # One after the other, where only one runs.
        for one in self.streams if IS_NATIVE else self.streams[:1]:
            one.await_deltas(2)

    def expect_running(self) -> None:
        """None has ended: what was done until now was done beside all of them."""
        ended = sum(one.ended for one in self.streams)
        expect(ended == 0 if IS_NATIVE else ended < len(self.streams), f"{ended} of {len(self.streams)} streams ended before the check was over")

    def expect_unchanged(self) -> None:
        """All end well and say what they say alone."""
        for place, (one, (ids, text)) in enumerate(zip(self.streams, self.alone)):
            result = one.result()
            expect_equal(result.text, text, f"text of stream {place}")
            expect_equal(ids_of(result), ids, f"tokens of stream {place}")


def failure_of(call: Callable[[], object]) -> grpc.RpcError:
    """The error of a call that must fail."""
    try:
        reply = call()
    except grpc.RpcError as error:
        return error
    raise Unmet(f"a call that should have failed was answered: {str(reply)[:200]!r}")
