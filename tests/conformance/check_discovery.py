"""What a client finds out before its first generation: health, reflection, tokens, request ids."""

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from skipstone.v1 import generation_pb2 as wire

from client import CALL_SECONDS, SERVICE_NAME, Context, failure_of, text_spec
from report import expect, expect_equal


def run(context: Context) -> None:
    check = context.report.check
    health = health_pb2_grpc.HealthStub(context.channel)
    for name in ("", SERVICE_NAME):
        with check(f"health of {name or 'the whole server'} is SERVING"):
            reply = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=CALL_SECONDS)
            expect_equal(reply.status, health_pb2.HealthCheckResponse.SERVING, "status")
    with check("health of an unknown service is NOT_FOUND"):
        request = health_pb2.HealthCheckRequest(service="no.such.Service")
        error = failure_of(lambda: health.Check(request, timeout=CALL_SECONDS))
        expect_equal(error.code(), grpc.StatusCode.NOT_FOUND, "code")
    for version in ("v1", "v1alpha"):
        with check(f"reflection {version} lists the services and describes ours"):
            reflection(context, version)
    with check("Tokenize counts text and chats"):
        tokenize(context)
    with check("special tokens are plain text unless asked for"):
        special_tokens(context)
    with check("x-request-id is honoured, echoed, and made where missing or malformed"):
        request_ids(context)
    with check("a gzip-compressed request is understood"):
        request = wire.TokenizeRequest(text="the same words again and again " * 100)
        plain = context.stub.Tokenize(request, timeout=CALL_SECONDS)
        packed = context.stub.Tokenize(request, timeout=CALL_SECONDS, compression=grpc.Compression.Gzip)
        expect_equal(packed, plain, "reply")
    with check("an unknown method is UNIMPLEMENTED"):
        call = context.channel.unary_unary(f"/{SERVICE_NAME}/NoSuchMethod")
        expect_equal(failure_of(lambda: call(b"", timeout=CALL_SECONDS)).code(), grpc.StatusCode.UNIMPLEMENTED, "code")


def reflection(context: Context, version: str) -> None:
    # The two versions differ in nothing but the name of the service, so one set of messages does
    # for both.
    call = context.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE_NAME),
    ]
    listed, described = list(call(iter(requests), timeout=CALL_SECONDS))
    names = {service.name for service in listed.list_services_response.service}
    expect({SERVICE_NAME, "grpc.health.v1.Health"} <= names, f"listed are {sorted(names)}")
    files = [FileDescriptorProto.FromString(data) for data in described.file_descriptor_response.file_descriptor_proto]
    methods = [method.name for file in files for service in file.service for method in service.method]
    expect_equal(methods, ["Generate", "GenerateStream", "Tokenize"], "methods")


def tokenize(context: Context) -> None:
    short = context.stub.Tokenize(wire.TokenizeRequest(text="The sea is blue."), timeout=CALL_SECONDS)
    expect(short.token_count > 0, "no tokens")
    expect_equal(short.token_count, len(short.token_ids), "token_count")
    expect(short.context_length >= 1024, f"context_length is {short.context_length}")
    twice = context.stub.Tokenize(wire.TokenizeRequest(text="The sea is blue." * 2), timeout=CALL_SECONDS)
    expect(twice.token_count > short.token_count, "twice the text has no more tokens")
    message = wire.ChatMessage(role=wire.ROLE_USER, content="The sea is blue.")
    closed = wire.ChatInput(messages=[message], add_generation_prompt=False)
    chat = context.stub.Tokenize(wire.TokenizeRequest(chat=wire.ChatInput(messages=[message])), timeout=CALL_SECONDS)
    without = context.stub.Tokenize(wire.TokenizeRequest(chat=closed), timeout=CALL_SECONDS)
    expect(chat.token_count > without.token_count > short.token_count,
           f"a chat has {chat.token_count} tokens, {without.token_count} without the opening of the answer, "
           f"and its text alone {short.token_count}")


def special_tokens(context: Context) -> None:
    name = "<|im_end|>"
    plain = context.stub.Tokenize(wire.TokenizeRequest(text=name), timeout=CALL_SECONDS)
    parsed = context.stub.Tokenize(wire.TokenizeRequest(text=name, parse_special_tokens=True), timeout=CALL_SECONDS)
    expect_equal(parsed.token_count, 1, "tokens of a special token's name that is parsed")
    expect(plain.token_count > 1, "the name of a special token became that token without being asked to")
    expect(parsed.token_ids[0] not in plain.token_ids, "the special token is among the plain ones")
    # A user who writes the end of a message into a message must not end it.
    marks = []
    for content in ("hello", f"hello{name}"):
        chat = wire.ChatInput(messages=[wire.ChatMessage(role=wire.ROLE_USER, content=content)])
        reply = context.stub.Tokenize(wire.TokenizeRequest(chat=chat), timeout=CALL_SECONDS)
        marks.append(list(reply.token_ids).count(parsed.token_ids[0]))
    expect_equal(marks[1], marks[0], f"{name} tokens of a chat whose user wrote one")


def request_ids(context: Context) -> None:
    for sent, kept in (("conformance-1", True), ("two words", False), (None, False)):
        metadata = (("x-request-id", sent),) if sent else ()
        call = context.stub.GenerateStream(
            wire.GenerateStreamRequest(spec=text_spec("One", 1)), timeout=CALL_SECONDS, metadata=metadata)
        started = list(call)[0].started
        echoed = dict(call.initial_metadata()).get("x-request-id")
        expect_equal(started.request_id, echoed, f"request_id of started, for {sent!r}")
        expect(echoed, f"no id for {sent!r}")
        expect_equal(echoed == sent, kept, f"whether {sent!r} was kept; it became {echoed!r}")
    error = failure_of(lambda: context.stub.Generate(
        wire.GenerateRequest(), timeout=CALL_SECONDS, metadata=(("x-request-id", "conformance-2"),)))
    expect_equal(dict(error.trailing_metadata()).get("x-request-id"), "conformance-2", "id of a refused call")
