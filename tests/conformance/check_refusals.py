"""Bad requests: the right code, a message that names the value, details for programs, and nobody else disturbed."""

from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from skipstone.v1 import generation_pb2 as wire

from client import (ADAPTIVE, CALL_SECONDS, IS_NATIVE, OFF, STATIC, Context, Neighbours, failure_of, text_spec)
from report import expect, expect_equal

INVALID = grpc.StatusCode.INVALID_ARGUMENT
# The default model's.
LAYERS = 30
VOCABULARY = 49152
BEYOND = 4_000_000


@dataclass
class Refusal:
    """A request, and how it is refused."""

    name: str
    spec: wire.GenerationSpec
    # Path of the field in google.rpc.BadRequest; empty where no field is to blame.
    field: str
    # What the message must name.
    says: tuple
    code: grpc.StatusCode = INVALID
    reason: str = "INVALID_REQUEST"


def sampling(name: str, value: object, says: str, field: str = "") -> Refusal:
    spec = text_spec("a", 1, sampling=wire.SamplingParams(**{name: value}))
    return Refusal(f"{name} {value}", spec, f"spec.sampling.{field or name}", (name, says))


def stops(name: str, field: str, says: tuple, reason: str = "INVALID_REQUEST", **criteria) -> Refusal:
    criteria.setdefault("max_new_tokens", 1)
    return Refusal(name, text_spec("a", stop=wire.StopCriteria(**criteria)), f"spec.stop.{field}", says, reason=reason)


def drafting(name: str, field: str, says: tuple, **fields) -> Refusal:
    spec = text_spec("a", 1, speculation=wire.SpeculationParams(**fields))
    return Refusal(name, spec, f"spec.speculation{field}", says)


def of_input(name: str, field: str, says: tuple, reason: str = "INVALID_REQUEST", **given) -> Refusal:
    stop = wire.StopCriteria(max_new_tokens=1)
    return Refusal(name, wire.GenerationSpec(stop=stop, **given), field, says, reason=reason)


def chat_of(*messages: wire.ChatMessage) -> wire.ChatInput:
    return wire.ChatInput(messages=messages)


def refusals(context_length: int) -> list:
    skip = wire.SkipSet
    return [
        Refusal("no spec", None, "spec", ("missing",)),
        of_input("no input", "spec.input", ("missing",)),
        of_input("an empty text", "spec.text", ("empty",), text=""),
        of_input("no token ids", "spec.token_ids", ("empty",), token_ids=wire.TokenIds()),
        of_input("no chat messages", "spec.chat.messages", ("0 messages",), chat=chat_of()),
        of_input("a chat message without a role", "spec.chat.messages[0].role", ("role 0",),
                 chat=chat_of(wire.ChatMessage(content="hello"))),
        of_input("a token id beyond the vocabulary", "spec.token_ids.ids[1]", (str(VOCABULARY),),
                 token_ids=wire.TokenIds(ids=[1, VOCABULARY])),
        of_input("token ids beyond the context", "spec.token_ids", (str(context_length + 5), str(context_length)),
                 "CONTEXT_EXCEEDED", token_ids=wire.TokenIds(ids=[7] * (context_length + 5))),
        of_input("a text beyond the context", "spec.text", (str(context_length),), "CONTEXT_EXCEEDED",
                 text="one two three " * context_length),
        of_input("a text beyond the bytes allowed", "spec.text", ("500000", "262144"), text="word " * 100_000),
        Refusal("an unknown model", text_spec("a", 1, model="gpt-17"), "", ("gpt-17",),
                grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
        sampling("temperature", float("nan"), "NaN"),
        sampling("temperature", float("inf"), "inf"),
        sampling("temperature", -0.5, "-0.5"),
        sampling("top_p", 0.0, "0"),
        sampling("top_p", 1.5, "1.5"),
        sampling("min_p", 1.0, "1"),
        sampling("repetition_penalty", 0.0, "0"),
        sampling("logit_bias", {VOCABULARY: 1.0}, str(VOCABULARY)),
        sampling("logit_bias", {5: float("nan")}, "NaN"),
        stops("max_new_tokens 0", "max_new_tokens", ("max_new_tokens is 0",), max_new_tokens=0),
        stops("max_new_tokens beyond the context", "max_new_tokens", (str(BEYOND), str(context_length)),
              "CONTEXT_EXCEEDED", max_new_tokens=BEYOND),
        stops("min_new_tokens above max_new_tokens", "min_new_tokens", ("9", "8"), max_new_tokens=8, min_new_tokens=9),
        stops("too many stop strings", "stop_strings", ("17", "16"), stop_strings=["stop"] * 17),
        stops("an empty stop string", "stop_strings[1]", ("0 bytes",), stop_strings=["stop", ""]),
        stops("a stop token beyond the vocabulary", "stop_token_ids[0]", (str(VOCABULARY + 3),),
              stop_token_ids=[VOCABULARY + 3]),
        Refusal("too many alternatives", text_spec("a", 1, output=wire.OutputOptions(top_logprobs=21)),
                "spec.output.top_logprobs", ("21", "20")),
        drafting("a skip set in mode OFF", ".skip_set", ("SPECULATION_MODE_OFF",),
                 mode=OFF, skip_set=skip(mlp_layers=[4])),
        drafting("a skip set in mode ADAPTIVE", ".skip_set", ("SPECULATION_MODE_ADAPTIVE",),
                 mode=ADAPTIVE, skip_set=skip(mlp_layers=[4])),
        drafting("a skip set without a mode", ".skip_set", ("SPECULATION_MODE_STATIC",), skip_set=skip(mlp_layers=[4])),
        drafting("a mode that does not exist", ".mode", ("9",), mode=9),
        *(static_refusals() if IS_NATIVE else [refused_plan()]),
    ]


def static_refusals() -> list:
    skip = wire.SkipSet
    return [
        drafting("a skipped attention layer out of range", ".skip_set.attention_layers", (str(LAYERS),),
                 mode=STATIC, skip_set=skip(attention_layers=[LAYERS])),
        drafting("a skipped MLP layer far out of range", ".skip_set.mlp_layers", (str(2**32 - 1),),
                 mode=STATIC, skip_set=skip(mlp_layers=[3, 2**32 - 1])),
        drafting("the first layer skipped", ".skip_set.mlp_layers", ("layer 0", "first"),
                 mode=STATIC, skip_set=skip(mlp_layers=[0])),
        drafting("a layer skipped twice", ".skip_set.mlp_layers", ("layer 4", "twice"),
                 mode=STATIC, skip_set=skip(mlp_layers=[4, 4])),
        drafting("an empty skip set", ".skip_set", ("no layer",), mode=STATIC, skip_set=skip()),
        drafting("max_draft_tokens 0", ".max_draft_tokens", ("max_draft_tokens is 0",),
                 mode=STATIC, max_draft_tokens=0),
        drafting("max_draft_tokens 17", ".max_draft_tokens", ("17", "16"), mode=STATIC, max_draft_tokens=17),
    ]


def refused_plan() -> Refusal:
    """What a backend says to a plan that it can't draft by."""
    return drafting("a static plan", ".mode", ("SPECULATION_MODE_STATIC", "backend"), mode=STATIC,
                    skip_set=wire.SkipSet(mlp_layers=[4]))


def run(context: Context) -> None:
    length = context.stub.Tokenize(wire.TokenizeRequest(text="a"), timeout=CALL_SECONDS).context_length
    cases = refusals(length)
    neighbours = None
    with context.report.check("streams to run beside the bad requests"):
        if not Neighbours.alone:
            Neighbours.prepare(context)
        neighbours = Neighbours(context)
    for case in cases:
        with context.report.check(f"refused, unary and stream: {case.name}"):
            for method in ("Generate", "GenerateStream"):
                check_refusal(case, failure_of(lambda: call(context, method, case.spec)), method)
    with context.report.check("all faults of a request are named at once"):
        several(context)
    with context.report.check("Tokenize refuses what it can't take"):
        error = failure_of(lambda: context.stub.Tokenize(wire.TokenizeRequest(), timeout=CALL_SECONDS))
        check_refusal(Refusal("", None, "input", ("missing",)), error, "Tokenize")
    with context.report.check("an oversized message is refused by its size"):
        oversized(context)
    with context.report.check(f"{len(Neighbours.PROMPTS)} streams ran beside all of these and say what they say alone"):
        expect(neighbours, "they did not start")
        neighbours.expect_running()
        neighbours.expect_unchanged()


def call(context: Context, method: str, spec) -> object:
    if method == "Generate":
        return context.stub.Generate(wire.GenerateRequest(spec=spec), timeout=CALL_SECONDS)
    return list(context.stub.GenerateStream(wire.GenerateStreamRequest(spec=spec), timeout=CALL_SECONDS))


def check_refusal(case: Refusal, error: grpc.RpcError, method: str) -> None:
    message = error.details()
    expect_equal(error.code(), case.code, f"code of {method}, which says {message!r}")
    for part in case.says:
        expect(part in message, f"the message of {method} does not name {part!r}: {message!r}")
    info, fields = details_of(error)
    expect(info is not None, f"{method} has no ErrorInfo")
    expect_equal((info.reason, info.domain), (case.reason, "skipstone"), f"ErrorInfo of {method}")
    expect_equal(list(fields), [case.field] if case.field else [], f"fields in the BadRequest of {method}")
    for field, description in fields.items():
        expect(description, f"{method} does not describe what is wrong with {field}")


def details_of(error: grpc.RpcError) -> tuple:
    """ErrorInfo, and the fields of BadRequest with their descriptions."""
    status = rpc_status.from_call(error)
    expect(status is not None, f"no google.rpc.Status with {error.code()}: {error.details()!r}")
    info, fields = None, {}
    for detail in status.details:
        one, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(one):
            info = one
        elif detail.Unpack(bad):
            fields = {violation.field: violation.description for violation in bad.field_violations}
    return info, fields


def several(context: Context) -> None:
    spec = text_spec(
        "a",
        stop=wire.StopCriteria(max_new_tokens=0, stop_strings=[""]),
        sampling=wire.SamplingParams(temperature=-1.0),
        speculation=wire.SpeculationParams(mode=STATIC, skip_set=wire.SkipSet(attention_layers=[LAYERS])),
    )
    _, fields = details_of(failure_of(lambda: call(context, "Generate", spec)))
    wanted = {"spec.stop.max_new_tokens", "spec.stop.stop_strings[0]", "spec.sampling.temperature",
              "spec.speculation.skip_set.attention_layers" if IS_NATIVE else "spec.speculation.mode"}
    expect_equal(set(fields), wanted, "fields in the BadRequest")


def oversized(context: Context) -> None:
    text = "a" * (1 << 21)
    error = failure_of(lambda: call(context, "Generate", wire.GenerationSpec(text=text)))
    expect_equal(error.code(), grpc.StatusCode.OUT_OF_RANGE, f"code; the message is {error.details()!r}")
    for size in (len(text) + 8, 1 << 20):
        # The message counts the envelope of the text as well.
        found = str(size)[:4]
        expect(found in error.details(), f"the message does not name {size}: {error.details()!r}")
    # The same in a compressed message, which is small until it is unpacked.
    packed = failure_of(lambda: context.stub.Generate(
        wire.GenerateRequest(spec=wire.GenerationSpec(text=text)), timeout=CALL_SECONDS,
        compression=grpc.Compression.Gzip))
    expect_equal(packed.code(), grpc.StatusCode.OUT_OF_RANGE, f"code of one that unpacks to {len(text)} bytes")
    for refused in (error, packed):
        info, _ = details_of(refused)
        expect_equal(info and info.reason, "MESSAGE_TOO_LONG", "reason")
