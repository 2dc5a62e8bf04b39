"""A replica dies without a word, and comes back."""

import re
import time

import grpc
from skipstone.v1 import generation_pb2 as wire

from check_metrics import await_up
from client import CALL_SECONDS, Context, Stream, text_spec
from cluster import Cluster, expect_answered
from report import expect, expect_equal
from traffic import Load, Outcome, metadata

# Enough that some come before Envoy has noticed anything.
ROUNDS_AFTER_DEATH = 3
WARM_SECONDS = 2.0
DEAD_SECONDS = 5.0
BACK_SECONDS = 2.0
# More than a stream brings before it is cut.
LONG_TOKENS = 2000
BROKEN_SECONDS = 10.0


def run(cluster: Cluster) -> None:
    idle_death(cluster)
    death_under_load(cluster)


def idle_death(cluster: Cluster) -> None:
    killed = cluster.replicas[0]
    killed.stop()
    with cluster.report.check("failover: requests for a replica that has just died are sent to the other one"):
        outcomes = [cluster.client.tokenize(session) for _ in range(ROUNDS_AFTER_DEATH) for session in cluster.homes]
        expect_answered(outcomes)
        expect_equal(set(cluster.replicas_of(outcomes)), {cluster.replicas[1].name}, "replicas that answered")
        again = sent_again(cluster, outcomes)
        expect(again, "none was tried on the dead replica first: it did not die in front of them")
        cluster.report.note(f"{len(outcomes)} requests, {again} of them tried on the dead one first")
    cluster.bring_back(killed)


def death_under_load(cluster: Cluster) -> None:
    check = cluster.report.check
    killed, other = cluster.replicas
    context = Context(killed.service, cluster.client.stub, cluster.client.channel, cluster.report)
    doomed = Stream(context, text_spec("The longest story", LONG_TOKENS),
                    metadata=metadata(cluster.session_of(killed), "doomed"))
    doomed.await_deltas(3)
    # After the stream, which could be moved to the other replica if this one were busy.
    load, patient = Load(cluster.client, threads=3), Load(cluster.patient_client, threads=2)
    time.sleep(WARM_SECONDS)
    dying = time.monotonic()
    killed.stop()
    death = time.monotonic()
    with check("failover: a stream on a killed replica fails at once instead of hanging"):
        # Envoy resets a stream whose reply has begun, and clients show that as INTERNAL.
        code = doomed.failure().code()
        expect(code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL), f"its status is {code.name}")
        took = time.monotonic() - death
        expect(took < BROKEN_SECONDS, f"it took {took:.1f} s")
    time.sleep(DEAD_SECONDS)
    with check("failover: Prometheus sees which replica is down"):
        await_up(cluster, {killed.metrics_address: 0.0, other.metrics_address: 1.0})
    cluster.bring_back(killed)
    back = time.monotonic()
    time.sleep(BACK_SECONDS)
    outcomes, patient_outcomes = load.stop(), patient.stop()
    with check("failover: no request that came after a replica was killed is lost"):
        none_lost(cluster, outcomes, death)
    with check("failover: what ran on the killed replica fails as UNAVAILABLE or is reset, and nothing else does"):
        under_way(cluster, outcomes, dying, death)
    with check("failover: with the example service config, not even requests under way are lost"):
        expect_answered(patient_outcomes)
        cluster.report.note(f"{len(patient_outcomes)} requests")
    with check("rebalancing: a replica that comes back gets requests again"):
        places = cluster.replicas_of([outcome for outcome in outcomes if outcome.began > back])
        expect(killed.name in places, f"none of {len(places)} requests went to {killed.name}")
        cluster.report.note(f"{places.count(killed.name)} of {len(places)} requests")
    with check("rebalancing: the sessions return to it"):
        cluster.expect_sessions_at_home()


def none_lost(cluster: Cluster, outcomes: list[Outcome], death: float) -> None:
    later = [outcome for outcome in outcomes if outcome.began > death]
    expect_answered(later)
    cluster.report.note(f"{len(later)} requests, {sent_again(cluster, later)} of them sent again by Envoy")


def sent_again(cluster: Cluster, outcomes: list[Outcome]) -> int:
    """How many of them Envoy tried more than once."""
    expect_equal(len(cluster.replicas_of(outcomes)), len(outcomes), "requests in the log")
    log = cluster.envoy.access_log()
    return sum(log[outcome.request_id]["attempts"] > 1 for outcome in outcomes)


def under_way(cluster: Cluster, outcomes: list[Outcome], dying: float, death: float) -> None:
    earlier = [outcome for outcome in outcomes if outcome.began <= death]
    broken = [outcome for outcome in earlier if outcome.error]
    # As above: an answer that has just begun is reset by Envoy, and clients show that as INTERNAL.
    expected = re.compile(r"UNAVAILABLE|INTERNAL: .*RST_STREAM")
    wrong = [one for one in broken if not expected.match(one.error or "") or one.ended < dying]
    expect(not wrong, f"these failed otherwise: {wrong}")
    # The service still answers, whatever Envoy remembers of the death.
    reply = cluster.client.stub.Generate(wire.GenerateRequest(spec=text_spec("a", 1)), timeout=CALL_SECONDS)
    expect_equal(reply.usage.completion_tokens, 1, "tokens of a request after all")
    cluster.report.note(f"{len(broken)} of {len(earlier)} requests were under way on it")
