"""A replica is asked to end while it works, as in every rolling update."""

import time

from skipstone.v1 import generation_pb2 as wire

from client import CALL_SECONDS, OFF, Context, Stream, speculation, text_spec
from cluster import Cluster, expect_answered
from processes import REPLICA_SETTINGS
from report import expect, expect_equal
from traffic import Load, metadata

GRACE_SECONDS = float(REPLICA_SETTINGS["SKIPSTONE_SERVER__WITHDRAWAL_GRACE_SECONDS"])
STREAMS = 3
TRIAL_TOKENS = 32
# What one of the streams would take alone: past the grace, so that they run on while the replica
# refuses new requests. The others, and the load beside them, only make it longer.
STREAM_SECONDS = GRACE_SECONDS + 1.0
PROMPT = "A list of animals, and what each of them eats:\n1."


def run(cluster: Cluster) -> None:
    check = cluster.report.check
    leaving = cluster.replicas[1]
    # Of equal output with and without drafting; without it, the time it takes is known.
    tokens = tokens_for(cluster)
    spec = text_spec(PROMPT, tokens, speculation=speculation(OFF))
    context = Context(leaving.service, cluster.client.stub, cluster.client.channel, cluster.report)
    session = cluster.session_of(leaving)
    streams = [Stream(context, spec, metadata=metadata(session, f"drain-{number}")) for number in range(STREAMS)]
    for stream in streams:
        stream.await_deltas(2)
    load = Load(cluster.client, threads=2)
    time.sleep(1.0)
    running = leaving.service.running()
    leaving.service.terminate()
    asked = time.monotonic()
    with check("drain: streams that run on a replica that is asked to end are not cut"):
        expect(running >= STREAMS, f"{running} streams were running on {leaving.name}, not {STREAMS}")
        results = [stream.result() for stream in streams]
        took = time.monotonic() - asked
        expect(took > GRACE_SECONDS, f"the streams ended after {took:.1f} s, before the replica refused new requests")
        for result in results:
            expect_equal(result.finished.usage.completion_tokens, tokens, "tokens of a stream")
            expect_equal(result.finished.finish.reason, wire.FINISH_REASON_LENGTH, "finish reason")
        cluster.report.note(f"{STREAMS} streams of {tokens} tokens ran for another {took:.1f} s")
    with check("drain: the replica ends by itself, with exit status 0"):
        status, _ = leaving.service.wait()
        expect_equal(status, 0, "exit status")
    outcomes = load.stop()
    with check("drain: no other request is lost meanwhile"):
        expect_answered(outcomes)
        cluster.report.note(f"{len(outcomes)} requests")
    with check("drain: after its grace it gets no new requests"):
        late = [outcome for outcome in outcomes if outcome.began > asked + GRACE_SECONDS]
        expect(late, "no request came that late")
        expect_equal(set(cluster.replicas_of(late)), {cluster.replicas[0].name}, "replicas of late requests")
        log = cluster.envoy.access_log()
        again = [one.request_id for one in late if log[one.request_id]["attempts"] > 1]
        expect(not again, f"{len(again)} of {len(late)} requests went to the leaving replica first")
    with check("drain: the other replica says the same as the streams"):
        reply = cluster.client.stub.Generate(wire.GenerateRequest(spec=spec), timeout=CALL_SECONDS)
        for stream in streams:
            expect_equal(stream.result().text, reply.text, "text of a stream")
    with check("rebalancing: after the drain its sessions return, too"):
        cluster.bring_back(leaving)
        cluster.expect_sessions_at_home()


def tokens_for(cluster: Cluster) -> int:
    """How many tokens take a stream STREAM_SECONDS, if several share its replica."""
    trial = text_spec(PROMPT, TRIAL_TOKENS, speculation=speculation(OFF))
    reply = cluster.client.stub.Generate(wire.GenerateRequest(spec=trial), timeout=CALL_SECONDS)
    seconds_a_token = reply.timing.decode.ToTimedelta().total_seconds() / TRIAL_TOKENS
    return int(STREAM_SECONDS / seconds_a_token)
