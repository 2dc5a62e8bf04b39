"""What is refused: the package's own exception classes, with the field, the value and the remedy."""

import json
import urllib.error
import urllib.request

import openai

from client import MESSAGES, Context, failure_of
from report import Unmet, expect, expect_equal

BAD = openai.BadRequestError
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]

# Options of a chat, the field that is named, and what the message must hold.
CHATS = (
    ({"n": 2}, "n", "2"),
    ({"tools": [TOOL]}, "tools", "not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
    ({"temperature": -1}, "temperature", "-1"),
    ({"top_p": 0}, "top_p", "0"),
    ({"max_tokens": 0}, "max_tokens", "0"),
    ({"max_tokens": -5}, "max_tokens", "-5"),
    ({"stop": [""]}, "stop[0]", "bytes"),
    ({"logit_bias": {"none": 1}}, "logit_bias", "none"),
    ({"logit_bias": {"1": 101}}, "logit_bias", "101"),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
    ({"logprobs": True, "top_logprobs": 99}, "top_logprobs", "99"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
    ({"messages": []}, "messages", "0"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role", "tool"),
    ({"messages": IMAGE}, "messages[0].content[0].type", "text"),
    ({"extra_body": {"skipstone": {"mode": "fast"}}}, "skipstone.mode", "fast"),
    ({"extra_body": {"skipstone": {"max_draft_tokens": 99}}}, "skipstone.max_draft_tokens", "99"),
    ({"extra_body": {"skipstone": {"mode": "static", "skip_set": {"mlp_layers": [999]}}}},
     "skipstone.skip_set.mlp_layers", "999"),
)
COMPLETIONS = (
    ({"echo": True}, "echo", "not supported"),
    ({"best_of": 3}, "best_of", "3"),
    ({"suffix": "x"}, "suffix", "not supported"),
    ({"prompt": ["a", "b"]}, "prompt", "2"),
    ({"prompt": ""}, "prompt", "empty"),
    ({"prompt": [10 ** 7]}, "prompt[0]", "10000000"),
)


def run(context: Context) -> None:
    check = context.report.check
    for call, cases in ((context.chat, CHATS), (context.complete, COMPLETIONS)):
        for options, param, part in cases:
            with check(f"{call.__name__} refuses {param}: {json.dumps(options)[:60]}"):
                error = failure_of(BAD, lambda call=call, options=options: call(**options))
                expect_equal((error.param, error.type), (param, "invalid_request_error"), f"param, type of {error}")
                expect(part in error.message, f"the message does not say {part!r}: {error.message!r}")
    with check("a prompt that is too long is context_length_exceeded, with both numbers"):
        error = failure_of(BAD, lambda: context.complete(prompt=[5] * 9000))
        expect_equal(error.code, "context_length_exceeded", "code")
        expect("9000" in error.message, error.message)
    with check("an unknown model is NotFoundError"):
        error = failure_of(openai.NotFoundError, lambda: context.chat(model="other"))
        expect_equal((error.code, error.param), ("model_not_found", "model"), "code, param")
        failure_of(openai.NotFoundError, lambda: context.client.models.retrieve("other"))
    with check("an endpoint that is not served is NotFoundError"):
        failure_of(openai.NotFoundError, lambda: context.client.embeddings.create(model="m", input="a"))
    with check("fields that are not known are ignored, and neutral values taken"):
        reply = context.chat(n=1, user="somebody", response_format={"type": "text"}, tools=[], max_tokens=2,
                             extra_body={"field_of_the_future": {"a": 1}})
        expect_equal(reply.usage.completion_tokens, 2, "tokens")
    with check("a request id is echoed, and made where there is none"):
        raw = context.client.with_raw_response.chat.completions.create(
            model=context.model(), messages=MESSAGES, max_tokens=1, extra_headers={"x-request-id": "mine-7"})
        expect_equal((raw.headers["x-request-id"], raw.parse().id), ("mine-7", "chatcmpl-mine-7"), "ids")
        expect(context.chat(max_tokens=1)._request_id, "no id was made")
    with check("what a page of another site could send is refused"):
        foreign(context)


def foreign(context: Context) -> None:
    body = json.dumps({"messages": MESSAGES}).encode()
    request = urllib.request.Request(f"http://{context.service.openai_address}/v1/chat/completions", body,
                                     {"content-type": "text/plain"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(request, timeout=10)
    except urllib.error.HTTPError as error:
        expect_equal(error.code, 415, "status")
    else:
        raise Unmet("a body of the type text/plain was taken")
