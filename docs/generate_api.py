"""Writes docs/api.md: the interface as tables, from the descriptors of proto/ and the comments in them.

scripts/api-docs runs it with the path of a descriptor set that includes source information.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

# Numbers of fields in descriptor.proto, of which the paths of comments are made.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_FIELD, MESSAGE_ONEOF, ENUM_VALUE, SERVICE_METHOD = 2, 8, 2, 2

# The others are imported ones.
OWN_FILES = "skipstone/"

HEAD = """\
# Interface

<!-- Written by scripts/api-docs from proto/ and docs/generate_api.py: change those and run it again. -->

The gRPC interface of Skipstone, from {files}. Beside it the server offers `grpc.health.v1.Health`, for the whole server
(`""`) and for each service by its full name, and reflection (`v1` and `v1alpha`) where `server.reflection` allows it.

`GenerationService` is on the address `server.listen`. `ControlService` is for operators and on that of the metrics, `metrics.listen`;
[docs/operations.md](operations.md#control-without-the-page) says when, and for whom. Its statuses are plain: UNAUTHENTICATED without the token,
INVALID_ARGUMENT for a value that can't be taken.

A field marked *optional* tells unset from zero. Of the fields marked *one of*, at most one is set.

## Metadata

| key | sent by | |
|---|---|---|
| `x-request-id` | client and server | Names the request in replies and logs. At most 128 letters, digits and `-_.:/+=@`; the server makes one otherwise. |
| `grpc-timeout` | client | The deadline, which gRPC libraries send. It bounds the whole generation. |
| `traceparent` | client | The W3C trace that the call is part of, where the server exports spans (`tracing.otlp_endpoint`). |
| `x-session-id` | client | Read by the load balancer only: requests of equal sessions go to one replica. |
| `authorization` | client | `Bearer TOKEN`, for the control service where `control.token_file` is set. |
| `grpc-retry-pushback-ms` | server | How long to wait before the next try, with RESOURCE_EXHAUSTED. gRPC libraries with a retry policy obey it. |

## Statuses

Each has an `ErrorInfo` of the domain `skipstone` with a reason for programs.

| status | reason | what to do |
|---|---|---|
| INVALID_ARGUMENT | `INVALID_REQUEST` | Correct the fields that `BadRequest` names. |
| INVALID_ARGUMENT | `CONTEXT_EXCEEDED` | Shorten the prompt or ask for fewer tokens; the message has both numbers. |
| OUT_OF_RANGE | `MESSAGE_TOO_LONG` | Shorten the message; `server.max_message_bytes` is the limit. |
| NOT_FOUND | `UNKNOWN_MODEL` | Name the served model, or none. |
| RESOURCE_EXHAUSTED | `QUEUE_FULL` | Try again after the pause that `RetryInfo` names. |
| RESOURCE_EXHAUSTED | `READER_STALLED` | Read the stream faster. |
| UNAVAILABLE | `SHUTTING_DOWN`, `ENGINE_STOPPED` | Try again; a load balancer finds another replica. |
| DEADLINE_EXCEEDED | `DEADLINE_EXCEEDED` | Allow more time or ask for fewer tokens. |
| INTERNAL | `INTERNAL` | A fault of the server: report it with the request id. |

A replica that dies ends its streams without a reason: as UNAVAILABLE, or as INTERNAL behind a load balancer that resets them.
"""


class File:
    """A proto file with its comments."""

    def __init__(self, descriptor: FileDescriptorProto) -> None:
        self.descriptor = descriptor
        self._comments = {
            tuple(location.path): location.leading_comments
            for location in descriptor.source_code_info.location
            if location.leading_comments
        }

    def comment(self, *path: int) -> str:
        """The comment in front of what is at the path. Its line breaks are kept only between paragraphs."""
        if path not in self._comments:
            raise SystemExit(f"{self.descriptor.name}: {self._name(path)} has no comment; write one in front of it")
        paragraphs = self._comments[path].strip().split("\n\n")
        return "\n\n".join(" ".join(line.strip() for line in text.strip().splitlines()) for text in paragraphs)

    def _name(self, path: Sequence[int]) -> str:
        kinds = {FILE_MESSAGE: self.descriptor.message_type, FILE_ENUM: self.descriptor.enum_type,
                 FILE_SERVICE: self.descriptor.service}
        return f"{kinds[path[0]][path[1]].name}, part {list(path[2:])}" if len(path) > 2 else kinds[path[0]][path[1]].name

    def services(self) -> Iterator[str]:
        """A section for each service."""
        for index, service in enumerate(self.descriptor.service):
            yield from self._service(service, (FILE_SERVICE, index))

    def messages(self) -> Iterator[str]:
        """A section for each message."""
        for index, message in enumerate(self.descriptor.message_type):
            yield from self._message(message, (FILE_MESSAGE, index))

    def enumerations(self) -> Iterator[str]:
        """A section for each enumeration."""
        for index, enumeration in enumerate(self.descriptor.enum_type):
            yield from self._enumeration(enumeration, (FILE_ENUM, index))

    def _service(self, service: ServiceDescriptorProto, path: tuple[int, ...]) -> Iterator[str]:
        yield f"## {self.descriptor.package}.{service.name}\n\n{self.comment(*path)}\n"
        yield "| method | request | reply | |\n|---|---|---|---|"
        for index, method in enumerate(service.method):
            request, reply = self._link(method.input_type), self._link(method.output_type)
            request = f"stream of {request}" if method.client_streaming else request
            reply = f"stream of {reply}" if method.server_streaming else reply
            yield f"| `{method.name}` | {request} | {reply} | {cell(self.comment(*path, SERVICE_METHOD, index))} |"
        yield ""

    def _message(self, message: DescriptorProto, path: tuple[int, ...]) -> Iterator[str]:
        yield f"### {message.name}\n\n{self.comment(*path)}\n"
        yield "| field | type | number | |\n|---|---|---|---|"
        for index, field in enumerate(message.field):
            text = cell(self.comment(*path, MESSAGE_FIELD, index))
            yield f"| `{field.name}` | {self._type(message, field)} | {field.number} | {text} |"
        yield ""
        # The oneof of an optional field is the compiler's own and comes last.
        written = len({field.oneof_index for field in message.field
                       if field.HasField("oneof_index") and not field.proto3_optional})
        for index in range(written):
            yield f"*One of* `{message.oneof_decl[index].name}`: {self.comment(*path, MESSAGE_ONEOF, index)}\n"

    def _enumeration(self, enumeration: EnumDescriptorProto, path: tuple[int, ...]) -> Iterator[str]:
        yield f"### {enumeration.name}\n\n{self.comment(*path)}\n"
        yield "| value | number | |\n|---|---|---|"
        for index, value in enumerate(enumeration.value):
            yield f"| `{value.name}` | {value.number} | {cell(self.comment(*path, ENUM_VALUE, index))} |"
        yield ""

    def _type(self, message: DescriptorProto, field: FieldDescriptorProto) -> str:
        entry = next((nested for nested in message.nested_type
                      if nested.options.map_entry and field.type_name.endswith(f".{message.name}.{nested.name}")), None)
        if entry is not None:
            return f"map of {self._bare_type(entry.field[0])} to {self._bare_type(entry.field[1])}"
        kind = self._bare_type(field)
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"repeated {kind}"
        if field.proto3_optional:
            return f"optional {kind}"
        if field.HasField("oneof_index"):
            return f"{kind}, one of `{message.oneof_decl[field.oneof_index].name}`"
        return kind

    def _bare_type(self, field: FieldDescriptorProto) -> str:
        if field.type_name:
            return self._link(field.type_name)
        return f"`{FieldDescriptorProto.Type.Name(field.type).removeprefix('TYPE_').lower()}`"

    def _link(self, type_name: str) -> str:
        """A name like .package.Type; a link if it is described on this page."""
        inside = type_name.removeprefix(f".{self.descriptor.package}.")
        return f"[{inside}](#{inside.lower()})" if inside != type_name else f"`{type_name.removeprefix('.')}`"


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("\n\n", " ").replace("|", "\\|")


def main() -> None:
    descriptors = FileDescriptorSet.FromString(Path(sys.argv[1]).read_bytes())
    files = [File(one) for one in descriptors.file if one.name.startswith(OWN_FILES)]
    names = (one.descriptor.name for one in files)
    lines = [HEAD.format(files=", ".join(f"[{name}](../proto/{name})" for name in names))]
    lines += [line for one in files for line in one.services()]
    lines += ["## Messages\n", *(line for one in files for line in one.messages())]
    lines += ["## Enumerations\n", *(line for one in files for line in one.enumerations())]
    sys.stdout.write("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
