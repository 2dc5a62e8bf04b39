"""The promise: drafting changes the speed and never the tokens, whatever is skipped and whatever else is in the batch."""

from concurrent.futures import ThreadPoolExecutor

from client import ADAPTIVE, LIGHT, OFF, STATIC, Context, generate, ids_of, speculation, text_spec
from report import expect

TOKENS = 24
# Eight streams fill the batch of the default configuration.
AT_ONCE = 8

PROMPTS = (
    "Once upon a time in a village by the river,",
    "def quicksort(items):\n    if len(items) <= 1:\n        return items\n",
    "Question: How many legs does a spider have?\nAnswer:",
    "Les feuilles tombent en automne et",
    "1, 1, 2, 3, 5, 8, 13,",
    "<html>\n<head>\n<title>Home</title>\n</head>\n<body>\n",
    "The three laws of motion were written down by",
    "Dear Sir or Madam,\n\nI am writing to complain about",
    "Shopping list:\n- eggs\n- milk\n- eggs\n- milk\n-",
    "SELECT name, price FROM products WHERE",
    "In summary, the experiment showed that",
    "Q: Translate 'good morning' into German.\nA:",
    "import numpy as np\n\nx = np.",
    "\u5317\u4eac\u662f\u4e2d\u56fd\u7684",
    "a",
)
MODES = {
    "static, light": LIGHT,
    "static, one MLP, drafts of one token": speculation(STATIC, mlp=(15,), cap=1),
    "static, half of the layers": speculation(STATIC, tuple(range(2, 29, 2)), tuple(range(2, 29, 2)), 8),
    "static, the server's own set": speculation(STATIC),
    "adaptive": speculation(ADAPTIVE),
    "the server's default": None,
}


def run(context: Context) -> None:
    plain = all_of(context, speculation(OFF), at_once=1)
    for name, how in MODES.items():
        with context.report.check(f"the same tokens as with speculation off: {name}, {AT_ONCE} streams at once"):
            compare(context, plain, all_of(context, how, AT_ONCE))
    with context.report.check("the same tokens with speculation off, alone and in a full batch"):
        compare(context, plain, all_of(context, speculation(OFF), AT_ONCE))


def all_of(context: Context, how, at_once: int) -> list:
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda prompt: generate(context, text_spec(prompt, TOKENS, speculation=how)), PROMPTS))


def compare(context: Context, plain: list, others: list) -> None:
    differences = [
        f"{prompt!r}: {ids_of(other)} instead of {ids_of(one)}"
        for prompt, one, other in zip(PROMPTS, plain, others)
        if ids_of(one) != ids_of(other) or one.text != other.text
    ]
    expect(not differences, f"{len(differences)} of {len(PROMPTS)} prompts differ: {'; '.join(differences)}")
    drafted = sum(reply.speculation.draft_tokens for reply in others)
    accepted = sum(reply.speculation.accepted_tokens for reply in others)
    context.report.note(f"{len(others)} prompts, {accepted} of {drafted} drafted tokens accepted")
