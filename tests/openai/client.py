"""What every check gets, and requests that most of them send."""

from dataclasses import dataclass

import grpc
import openai
from skipstone.v1 import generation_pb2 as wire
from skipstone.v1 import generation_pb2_grpc as rpc

from report import Report, Unmet
from service import Service

CALL_SECONDS = 180
PROMPT = "The three primary colours are"
MESSAGES = [
    {"role": "system", "content": "You answer in one sentence."},
    {"role": "user", "content": [{"type": "text", "text": "Why is the sky "}, {"type": "text", "text": "blue?"}]},
]
# As gRPC has it: the parts of a message joined.
CHAT = wire.ChatInput(messages=[
    wire.ChatMessage(role=wire.ROLE_SYSTEM, content="You answer in one sentence."),
    wire.ChatMessage(role=wire.ROLE_USER, content="Why is the sky blue?"),
])
# Longer than any check takes, for streams that are to be cut off.
ENDLESS = 1900


@dataclass
class Context:
    """What every check gets."""

    service: Service
    client: openai.OpenAI
    stub: rpc.GenerationServiceStub
    report: Report

    def model(self) -> str:
        """The served name."""
        return self.service.model

    def chat(self, **options):
        """A short greedy chat."""
        options = {"model": self.model(), "messages": MESSAGES, "max_tokens": 24, "temperature": 0, **options}
        return self.client.chat.completions.create(**options)

    def complete(self, **options):
        """A short greedy completion."""
        options = {"model": self.model(), "prompt": PROMPT, "max_tokens": 24, "temperature": 0, **options}
        return self.client.completions.create(**options)

    def over_grpc(self, **spec) -> wire.GenerateResponse:
        """The same over gRPC."""
        spec.setdefault("stop", wire.StopCriteria(max_new_tokens=24))
        spec.setdefault("sampling", wire.SamplingParams(temperature=0))
        request = wire.GenerateRequest(spec=wire.GenerationSpec(**spec))
        return self.stub.Generate(request, timeout=CALL_SECONDS)


def client_of(address: str, **options) -> openai.OpenAI:
    """A client that does not try again by itself: a check wants to see the first answer."""
    options = {"max_retries": 0, "timeout": CALL_SECONDS, **options}
    return openai.OpenAI(base_url=f"http://{address}/v1", api_key="any", **options)


def stub_of(channel: grpc.Channel) -> rpc.GenerationServiceStub:
    """The gRPC client beside it."""
    return rpc.GenerationServiceStub(channel)


def failure_of(kind: type, call) -> openai.APIStatusError:
    """The error of a call that must fail, of exactly this class."""
    try:
        reply = call()
    except openai.OpenAIError as error:
        if type(error) is not kind:
            raise Unmet(f"{type(error).__name__} instead of {kind.__name__}: {error}") from error
        return error
    raise Unmet(f"a call that should have failed was answered: {str(reply)[:200]!r}")
