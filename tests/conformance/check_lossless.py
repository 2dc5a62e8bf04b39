"""The promise: drafting never changes the tokens, whatever is skipped and whatever else is in the batch."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skipstone.v1 import generation_pb2 as wire

from client import ADAPTIVE, LIGHT, OFF, STATIC, Context, generate, ids_of, speculation, text_spec
from report import expect

TOKENS = 24
# Eight streams fill the batch of the default configuration.
AT_ONCE = 8

# Beside the project's own prompts: one token, and characters that span tokens.
EDGES = ("a", "\u5317\u4eac\u662f\u4e2d\u56fd\u7684")
EVERY = 4
MODES = {
    "static, light": LIGHT,
    "static, one MLP, drafts of one token": speculation(STATIC, mlp=(15,), cap=1),
    "static, half of the layers": speculation(STATIC, tuple(range(2, 29, 2)), tuple(range(2, 29, 2)), 8),
    "static, the server's own set": speculation(STATIC),
    "adaptive": speculation(ADAPTIVE),
    "the server's default": None,
}


def run(context: Context) -> None:
    specs = prompts()
    plain = all_of(context, specs, speculation(OFF), at_once=1)
    for name, how in MODES.items():
        with context.report.check(f"the same tokens as with speculation off: {name}, {AT_ONCE} streams at once"):
            others = all_of(context, specs, how, AT_ONCE)
            compare(context, specs, plain, others)
            # A static plan always drafts; whether the others do is the service's choice.
            drafted = sum(reply.speculation.draft_tokens for reply in others)
            expect(drafted > 0 or how is None or how.mode != STATIC, "nothing was drafted, so nothing was shown")
    with context.report.check("the same tokens with speculation off, alone and in a full batch"):
        compare(context, specs, plain, all_of(context, specs, speculation(OFF), AT_ONCE))


def prompts() -> list:
    """Some of every category of the project's prompts, as chats; the edges as text."""
    file = Path(__file__).parents[2] / "benches" / "data" / "prompts.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][::EVERY]
    specs = [text_spec(text, TOKENS) for text in EDGES]
    for line in lines:
        message = wire.ChatMessage(role=wire.ROLE_USER, content=line["prompt"])
        specs.append(text_spec("", TOKENS))
        specs[-1].chat.CopyFrom(wire.ChatInput(messages=[message]))
    expect(len(specs) >= 12, f"only {len(specs)} prompts")
    return specs


def all_of(context: Context, specs: list, how, at_once: int) -> list:
    def one(spec: wire.GenerationSpec) -> wire.GenerateResponse:
        mine = wire.GenerationSpec()
        mine.CopyFrom(spec)
        if how is not None:
            mine.speculation.CopyFrom(how)
        return generate(context, mine)

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one, specs))


def compare(context: Context, specs: list, plain: list, others: list) -> None:
    differences = [
        f"{spec.text or spec.chat.messages[0].content!r}: {ids_of(other)} instead of {ids_of(one)}"
        for spec, one, other in zip(specs, plain, others)
        if ids_of(one) != ids_of(other) or one.text != other.text
    ]
    expect(not differences, f"{len(differences)} of {len(specs)} prompts differ: {'; '.join(differences)}")
    drafted = sum(reply.speculation.draft_tokens for reply in others)
    accepted = sum(reply.speculation.accepted_tokens for reply in others)
    context.report.note(f"{len(others)} prompts, {accepted} of {drafted} drafted tokens accepted")
