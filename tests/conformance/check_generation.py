"""Generations: events, inputs, counts, log-probabilities, stops, seeds."""

import datetime
import math

from skipstone.v1 import generation_pb2 as wire

from client import (ADAPTIVE, CALL_SECONDS, IS_NATIVE, LIGHT, OFF, STATIC, Context, generate, ids_of, speculation,
                    stream, text_spec)
from report import expect, expect_equal

PROMPT = "The lighthouse keeper opened the door and"
TOKENS = 48


def run(context: Context) -> None:
    check = context.report.check
    modes = {"off": speculation(OFF), "static": LIGHT, "adaptive": speculation(ADAPTIVE), "default": None}
    for name, how in modes.items():
        with check(f"a stream and a unary call agree, speculation {name}"):
            stream_and_unary(context, how)
    if IS_NATIVE:
        with check("a draft is accepted now and then, and its tokens say so"):
            reply = generate(context, text_spec(PROMPT, TOKENS, speculation=LIGHT))
            drafted = sum(token.origin == wire.TOKEN_ORIGIN_DRAFT for token in reply.tokens)
            expect_equal(drafted, reply.speculation.accepted_tokens, "tokens of origin DRAFT")
            expect(drafted > 0, f"none of {reply.speculation.draft_tokens} drafted tokens was accepted")
            context.report.note(f"accepted {drafted} of {reply.speculation.draft_tokens} drafted tokens")
    with check("token ids as input give what their text gives"):
        token_ids(context)
    with check("a chat is answered and ends by itself"):
        chat(context)
    with check("log-probabilities are the full model's, in every mode"):
        log_probabilities(context)
    with check("stop strings end the text, also across tokens"):
        stop_strings(context)
    with check("stop tokens end the generation"):
        stop_tokens(context)
    with check("a seed repeats a sampled result, speculation off"):
        seeds(context)
    with check("a logit bias forces and forbids tokens"):
        logit_bias(context)


def stream_and_unary(context: Context, how) -> None:
    spec = text_spec(PROMPT, TOKENS, speculation=how)
    counted = context.stub.Tokenize(wire.TokenizeRequest(text=PROMPT), timeout=CALL_SECONDS).token_count
    whole, streamed = generate(context, spec), stream(context, spec)
    expect_equal(streamed.text, whole.text, "text of the stream")
    expect_equal(ids_of(streamed), ids_of(whole), "tokens of the stream")
    expect_equal(streamed.started.prompt_tokens, counted, "prompt_tokens of started")
    for name, reply in (("Generate", whole), ("GenerateStream", streamed.finished)):
        expect_equal(reply.usage.prompt_tokens, counted, f"prompt_tokens of {name}")
        expect_equal(reply.usage.completion_tokens, TOKENS, f"completion_tokens of {name}")
        expect_equal(reply.finish.reason, wire.FINISH_REASON_LENGTH, f"finish reason of {name}")
        total, decode = reply.timing.total.ToTimedelta(), reply.timing.decode.ToTimedelta()
        expect(total >= decode > datetime.timedelta(), f"timing of {name}: {reply.timing}")
        statistics(reply.speculation, off=how is not None and how.mode == OFF)
    expect_equal(len(ids_of(whole)), TOKENS, "tokens")
    for name in ("model", "seed"):
        expect(getattr(streamed.started, name), f"started has no {name}")
    expect_equal(whole.model, context.service.model, "model")
    expect("".join(token.text for token in whole.tokens) == whole.text, "the tokens' texts do not make the text")
    totals = streamed.finished.speculation
    expect_equal(sum(delta.drafted for delta in streamed.deltas), totals.draft_tokens, "drafted, over the deltas")
    expect_equal(sum(delta.accepted for delta in streamed.deltas), totals.accepted_tokens, "accepted, over the deltas")


def statistics(stats: wire.SpeculationStats, off: bool) -> None:
    per_position = list(stats.accepted_per_position)
    expect(stats.accepted_tokens <= stats.draft_tokens, f"accepted more than was drafted: {stats}")
    expect(stats.drafts <= stats.draft_tokens, f"more drafts than drafted tokens: {stats}")
    expect_equal(sum(per_position), stats.accepted_tokens, "sum of accepted_per_position")
    expect_equal(per_position, sorted(per_position, reverse=True), "accepted_per_position, which can't rise")
    expect(all(count <= stats.drafts for count in per_position), f"a position accepted too often: {stats}")
    if off:
        expect_equal(stats.draft_tokens, 0, "tokens drafted with speculation off")
        expect_equal(stats.off_reason, wire.SPECULATION_OFF_REASON_REQUESTED, "off_reason")
        expect(not stats.HasField("final_plan"), "there is a draft plan with speculation off")
    elif not IS_NATIVE:
        expect_equal(stats.draft_tokens, 0, "tokens drafted by a backend that can't")
        expect_equal(stats.off_reason, wire.SPECULATION_OFF_REASON_BACKEND, "off_reason")
        expect_equal([time.reason for time in stats.off_times], ["backend"], "reasons of off_times")
    elif stats.draft_tokens:
        expect_equal(stats.off_reason, wire.SPECULATION_OFF_REASON_UNSPECIFIED, "off_reason after drafts")
        expect(stats.HasField("final_plan"), "a generation drafted and names no plan")


def token_ids(context: Context) -> None:
    tokens = context.stub.Tokenize(wire.TokenizeRequest(text=PROMPT), timeout=CALL_SECONDS)
    spec = text_spec(PROMPT, TOKENS)
    by_text = generate(context, spec)
    spec.token_ids.ids.extend(tokens.token_ids)
    expect_equal(spec.WhichOneof("input"), "token_ids", "input that is sent")
    by_ids = generate(context, spec)
    expect_equal(by_ids.text, by_text.text, "text")
    expect_equal(by_ids.usage, by_text.usage, "usage")


def chat(context: Context) -> None:
    question = wire.ChatMessage(role=wire.ROLE_USER, content="Explain in three sentences why the sky is blue.")
    messages = wire.ChatInput(messages=[question])
    counted = context.stub.Tokenize(wire.TokenizeRequest(chat=messages), timeout=CALL_SECONDS).token_count
    spec = wire.GenerationSpec(chat=messages, stop=wire.StopCriteria(max_new_tokens=200))
    result = stream(context, spec)
    expect("sky" in result.text, f"the answer is {result.text!r}")
    expect("<|im_end|>" not in result.text, f"the end of the message is in the text: {result.text!r}")
    expect_equal(result.finished.finish.reason, wire.FINISH_REASON_END_OF_SEQUENCE, "finish reason")
    expect_equal(result.finished.usage.prompt_tokens, counted, "prompt_tokens")
    expect_equal(result.tokens, [], "tokens that nobody asked for")
    instructed = wire.ChatMessage(role=wire.ROLE_SYSTEM, content="You answer in one word.")
    spec.chat.CopyFrom(wire.ChatInput(messages=[instructed, question]))
    expect(stream(context, spec).started.prompt_tokens != counted, "the system message did not change the prompt")


def log_probabilities(context: Context) -> None:
    alternatives = 5
    replies = []
    for how in (speculation(OFF), LIGHT, speculation(STATIC, (20, 21), (5, 20), 8)):
        output = wire.OutputOptions(top_logprobs=alternatives)
        replies.append(generate(context, text_spec(PROMPT, TOKENS, output=output, speculation=how)))
    for place, token in enumerate(replies[0].tokens):
        expect(token.HasField("logprob"), f"token {place} has no logprob")
        best = token.top_logprobs
        values = [one.logprob for one in best]
        expect_equal(len(best), alternatives, f"alternatives of token {place}")
        expect_equal(values, sorted(values, reverse=True), f"order of the alternatives of token {place}")
        expect_equal((best[0].id, best[0].logprob), (token.id, token.logprob), f"best alternative of token {place}")
        expect(math.fsum(map(math.exp, values)) <= 1.0001, f"probabilities at token {place} exceed 1: {values}")
        expect(len({one.id for one in best}) == alternatives, f"token {place} has an alternative twice")
    facts = [[(token.id, token.logprob, token.top_logprobs) for token in reply.tokens] for reply in replies]
    for place, other in enumerate(facts[1:], 1):
        different = [token for token in range(TOKENS) if other[token] != facts[0][token]]
        expect(not different, f"mode {place}: other log-probabilities than with speculation off at tokens {different}")
    only = generate(context, text_spec(PROMPT, 2, output=wire.OutputOptions(logprobs=True)))
    expect(all(token.HasField("logprob") and not token.top_logprobs for token in only.tokens), "logprobs alone")


def stop_strings(context: Context) -> None:
    whole = generate(context, text_spec(PROMPT, TOKENS))
    # The end of one token and the beginning of the next.
    first, second = (whole.tokens[place].text for place in (20, 21))
    stop = first[-2:] + second[:3]
    end = whole.text.index(stop)
    for how in (speculation(OFF), LIGHT):
        for include in (False, True):
            criteria = wire.StopCriteria(max_new_tokens=TOKENS, stop_strings=["no such text", stop],
                                         include_stop_string=include, ignore_end_of_sequence=True)
            spec = text_spec(PROMPT, stop=criteria, speculation=how)
            result = stream(context, spec)
            wanted = whole.text[:end + len(stop) * include]
            expect_equal(result.text, wanted, f"text before {stop!r}, include_stop_string {include}")
            expect_equal(result.finished.finish.reason, wire.FINISH_REASON_STOP, "finish reason")
            expect_equal(result.finished.finish.stop_string, stop, "the stop string that matched")
            expect_equal(len(result.tokens), result.finished.usage.completion_tokens, "completion_tokens")
            expect_equal(generate(context, spec).text, wanted, "text of the unary call")


def stop_tokens(context: Context) -> None:
    whole = generate(context, text_spec(PROMPT, TOKENS))
    wanted = ids_of(whole)[20]
    first = ids_of(whole).index(wanted)
    for how in (speculation(OFF), LIGHT):
        criteria = wire.StopCriteria(max_new_tokens=TOKENS, stop_token_ids=[wanted], ignore_end_of_sequence=True)
        reply = generate(context, text_spec(PROMPT, stop=criteria, speculation=how))
        expect_equal(reply.finish.reason, wire.FINISH_REASON_STOP, "finish reason")
        expect_equal(reply.finish.stop_token_id, wanted, "the stop token that matched")
        expect_equal(reply.usage.completion_tokens, first + 1, "completion_tokens")
        expect_equal(ids_of(reply), ids_of(whole)[:first + 1], "tokens")


def seeds(context: Context) -> None:
    def sampled(seed) -> wire.GenerateResponse:
        sampling = wire.SamplingParams(temperature=0.8, seed=seed)
        return generate(context, text_spec(PROMPT, TOKENS, sampling=sampling, speculation=speculation(OFF)))

    first, again, other, random = sampled(7), sampled(7), sampled(8), sampled(None)
    expect_equal(first.seed, 7, "seed of the reply")
    expect_equal(ids_of(again), ids_of(first), "tokens with the same seed")
    expect(ids_of(other) != ids_of(first), "another seed changed nothing")
    expect_equal(ids_of(sampled(random.seed)), ids_of(random), "tokens with the seed that a reply named")


def logit_bias(context: Context) -> None:
    free = ids_of(generate(context, text_spec(PROMPT, 1)))[0]
    forbidden = wire.SamplingParams(temperature=0.0, logit_bias={free: -100.0})
    without = ids_of(generate(context, text_spec(PROMPT, 8, sampling=forbidden)))
    expect(free not in without, f"token {free} came in spite of its bias")
    forced = wire.SamplingParams(temperature=0.0, logit_bias={1000: 100.0})
    expect_equal(ids_of(generate(context, text_spec(PROMPT, 4, sampling=forced))), [1000] * 4, "forced tokens")
