"""What is generated: the same as over gRPC, whole and in chunks, with counts and log-probabilities."""

import math
from concurrent.futures import ThreadPoolExecutor

from skipstone.v1 import generation_pb2 as wire

from client import CHAT, MESSAGES, PROMPT, Context
from report import expect, expect_equal

STREAMS = 8
OFF = {"skipstone": {"mode": "off"}}
STATIC = {"skipstone": {"mode": "static", "max_draft_tokens": 4,
                        "skip_set": {"attention_layers": [9, 10, 12], "mlp_layers": [10, 11]}}}


def run(context: Context) -> None:
    check = context.report.check
    with check("models are listed, and retrieved by name"):
        names = [model.id for model in context.client.models.list()]
        expect_equal(names, [context.model()], "models")
        expect_equal(context.client.models.retrieve(context.model()).owned_by, "skipstone", "owner")
    with check("greedy chats say what gRPC says, in every mode of drafting, whole and in chunks"):
        chats(context)
    with check("greedy completions say what gRPC says, of text and of tokens"):
        completions(context)
    with check("token counts, of streams only where asked for"):
        counts(context)
    with check("a stop string ends an answer and is not part of it"):
        stops(context)
    with check("with drafting off, a seed repeats an answer and another gives another"):
        seeds(context)
    with check("log-probabilities of chats and completions"):
        logprobs(context)
    with check("penalties and biases reach the sampler"):
        biases(context)
    with check(f"{STREAMS} streams at the same time say what they say alone"):
        together(context)


def read(stream) -> tuple[str, list]:
    """The text of a chat's chunks, and the chunks."""
    chunks = list(stream)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks


def chats(context: Context) -> None:
    wanted = context.over_grpc(chat=CHAT)
    for name, extra in (("default", {}), ("off", OFF), ("static", STATIC)):
        whole = context.chat(extra_body=extra)
        expect_equal(whole.choices[0].message.content, wanted.text, f"text, {name}")
        expect_equal(whole.choices[0].message.role, "assistant", "role")
        expect_equal(whole.choices[0].finish_reason, "length", f"finish reason, {name}")
        text, chunks = read(context.chat(extra_body=extra, stream=True))
        expect_equal(text, wanted.text, f"text of the stream, {name}")
        reasons = [chunk.choices[0].finish_reason for chunk in chunks]
        expect_equal(reasons, [None] * (len(chunks) - 1) + ["length"], f"finish reasons of the chunks, {name}")
        stats = chunks[-1].skipstone
        expect_equal(stats["draft_tokens"] > 0, name == "static" or stats["drafts"] > 0, f"drafts, {name}: {stats}")
        if name == "off":
            expect_equal(stats["off_reason"], "requested", "off_reason")
        else:
            context.report.note(f"{name}: {stats['accepted_tokens']} of {stats['draft_tokens']} drafts accepted")


def completions(context: Context) -> None:
    wanted = context.over_grpc(text=PROMPT)
    ids = context.stub.Tokenize(_tokenize(PROMPT)).token_ids
    for prompt in (PROMPT, [PROMPT], list(ids), [list(ids)]):
        expect_equal(context.complete(prompt=prompt).choices[0].text, wanted.text, f"text after {prompt!r}")
    text = "".join(chunk.choices[0].text for chunk in context.complete(stream=True))
    expect_equal(text, wanted.text, "text of the stream")


def _tokenize(text: str):
    return wire.TokenizeRequest(text=text)


def counts(context: Context) -> None:
    wanted = context.over_grpc(chat=CHAT).usage
    usage = context.chat().usage
    found = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    total = wanted.prompt_tokens + wanted.completion_tokens
    expect_equal(found, (wanted.prompt_tokens, wanted.completion_tokens, total), "usage")
    _, chunks = read(context.chat(stream=True, stream_options={"include_usage": True}))
    expect_equal([chunk.usage for chunk in chunks[:-1]], [None] * (len(chunks) - 1), "usage before the last chunk")
    expect_equal((chunks[-1].choices, chunks[-1].usage.total_tokens), ([], total), "the last chunk")
    _, chunks = read(context.chat(stream=True))
    expect(all(chunk.usage is None for chunk in chunks), "a stream counts what nobody asked for")


def stops(context: Context) -> None:
    text = context.complete().choices[0].text
    middle = text[len(text) // 2:][:3]
    reply = context.complete(stop=[middle, "\x00never"])
    expect_equal(reply.choices[0].text, text[:text.index(middle)], f"text before {middle!r}")
    expect_equal(reply.choices[0].finish_reason, "stop", "finish reason")
    expect_equal(reply.skipstone["finish_reason"], "stop", "finish reason in full")


def seeds(context: Context) -> None:
    def said(seed: int) -> str:
        # Which tokens an adaptive stream drafts depends on timing, and with it the sample, though
        # not its distribution.
        return context.chat(temperature=1.5, seed=seed, extra_body=OFF).choices[0].message.content

    first = said(7)
    expect_equal(said(7), first, "text of the same seed")
    expect(any(said(seed) != first for seed in (8, 9, -10)), "three other seeds give the same text")


def logprobs(context: Context) -> None:
    content = context.chat(logprobs=True, top_logprobs=3).choices[0].logprobs.content
    expect_equal(len(content), 24, "tokens with log-probabilities")
    for token in content:
        # Greedy: the token is the best of its alternatives.
        expect_equal(token.top_logprobs[0].token, token.token, "best alternative")
        expect_equal(len(token.top_logprobs), 3, "alternatives")
        expect(token.logprob <= 0 and math.isfinite(token.logprob), f"log-probability {token.logprob}")
    text = context.chat().choices[0].message.content
    expect_equal(b"".join(bytes(token.bytes) for token in content).decode(), text, "bytes of the tokens")
    reply = context.complete(logprobs=2).choices[0]
    expect_equal("".join(reply.logprobs.tokens), reply.text, "tokens of the completion")
    expect_equal([len(top) for top in reply.logprobs.top_logprobs], [2] * 24, "alternatives of the completion")
    starts = [reply.text[start:].startswith(token)
              for start, token in zip(reply.logprobs.text_offset, reply.logprobs.tokens)]
    expect(all(starts), f"text_offset does not say where tokens begin: {reply.logprobs}")


def biases(context: Context) -> None:
    ids = list(context.stub.Tokenize(_tokenize(PROMPT)).token_ids)
    reply = context.complete(logit_bias={str(ids[-1]): 100}, max_tokens=3, logprobs=0)
    expect_equal(len(set(reply.choices[0].logprobs.tokens)), 1, "different tokens under a bias towards one")
    penalised = context.complete(max_tokens=48, presence_penalty=2, frequency_penalty=2, logprobs=0)
    plain = context.complete(max_tokens=48, logprobs=0)
    repeats = [48 - len(set(reply.choices[0].logprobs.tokens)) for reply in (penalised, plain)]
    expect(repeats[0] < repeats[1] or repeats[1] == 0, f"repeated tokens with and without a penalty: {repeats}")


def together(context: Context) -> None:
    questions = [f"Tell me something about the number {number}." for number in range(STREAMS)]

    def ask(question: str, **options) -> str:
        messages = [*MESSAGES[:1], {"role": "user", "content": question}]
        return read(context.chat(messages=messages, max_tokens=48, stream=True, **options))[0]

    alone = [ask(question, extra_body=OFF) for question in questions]
    with ThreadPoolExecutor(STREAMS) as pool:
        expect_equal(list(pool.map(ask, questions)), alone, "what they say together")
