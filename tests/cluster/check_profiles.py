"""What one replica learns of some traffic, the others know: with their first request of it, and without waiting for it."""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass

import grpc
from skipstone.v1 import generation_pb2 as wire
from skipstone.v1 import generation_pb2_grpc as rpc

from client import ADAPTIVE, CALL_SECONDS, text_spec
from cluster import NOTICE_SECONDS, Cluster, expect_answered
from processes import REPLICA_SETTINGS, Replica
from report import expect, expect_equal, expect_within
from service import Service
from traffic import Load

OPERATIONS = "skipstone_profile_store_operations_total"
# Tables of random numbers. Their lines begin alike, so n-gram matches are everywhere, and wrong wherever a number follows:
# other than what a replica expects that knows nothing of such traffic.
KEY = "ledgers"
LINES = 8
LESSONS = 24
LESSON_TOKENS = 32
# The beginning only, because a stream finds out by itself as it goes, and so does a replica.
FIRST_TOKENS = 16
STREAMS = 3
STARTS = 4
DOWN_SECONDS = 4.0


@dataclass
class Drafts:
    """What became of the drafts of some streams."""

    drafted: int = 0
    accepted: int = 0

    def share(self) -> float:
        """Accepted / drafted."""
        return self.accepted / max(self.drafted, 1)

    def __str__(self) -> str:
        return f"{self.accepted} of {self.drafted} drafted tokens accepted ({self.share():.2f})"


def run(cluster: Cluster) -> None:
    check = cluster.report.check
    teacher, other = cluster.replicas
    with check("profiles: what a replica learns reaches the store that replicas share"):
        before = operations(teacher.service, "merge", "ok")
        lessons = generate(teacher.address, range(LESSONS), LESSON_TOKENS)
        cluster.report.note(f"{teacher.name}: {lessons}")
        # The pool's record and the key's.
        expect_within(NOTICE_SECONDS, lambda: operations(teacher.service, "merge", "ok") >= before + 2,
                      lambda: "nothing was written")
    with check("profiles: a replica that starts drafts better on traffic that only the other has seen than a cold one"):
        cold, warm = Drafts(), Drafts()
        for start in range(STARTS):
            seeds = range(1000 + STREAMS * start, 1000 + STREAMS * (start + 1))
            add(cold, alone(cluster, other, seeds))
            other.service.kill()
            cluster.bring_back(other)
            add(warm, generate(other.address, seeds, FIRST_TOKENS))
            expect(operations(other.service, "get", "ok") >= 2, f"{other.name} did not fetch the pool and the key")
        cluster.report.note(f"the first {FIRST_TOKENS} tokens of the first {STREAMS} streams, {STARTS} starts each; "
                            f"cold: {cold}; warm: {warm}")
        expect(warm.share() > cold.share(), f"cold {cold}, warm {warm}")
    with check("profiles: losing the store loses no request"):
        lose_the_store(cluster)


def lose_the_store(cluster: Cluster) -> None:
    load = Load(cluster.client, threads=2)
    time.sleep(1.0)
    cluster.redis.stop()
    time.sleep(DOWN_SECONDS)
    outcomes = load.stop()
    expect_answered(outcomes)
    failed = sum(operations(replica.service, "merge", "error") + operations(replica.service, "get", "error")
                 for replica in cluster.replicas)
    expect(failed > 0, "no replica noticed that the store was gone")
    cluster.redis.come_back()
    written = [operations(replica.service, "merge", "ok") for replica in cluster.replicas]
    # They try again after some seconds.
    expect_within(2 * NOTICE_SECONDS,
                  lambda: any(operations(replica.service, "merge", "ok") > before
                              for replica, before in zip(cluster.replicas, written)),
                  lambda: "nobody writes to the store that has come back")
    cluster.report.note(f"{len(outcomes)} requests; {failed:.0f} operations of the store failed, "
                        "and lessons were written when it was back")


def alone(cluster: Cluster, like: Replica, seeds: Iterable[int]) -> Drafts:
    """The same on a replica that shares nothing and has learned nothing."""
    service = Service(like.binary, like.model, cluster.folder / "cold.log", settings=REPLICA_SETTINGS)
    try:
        return generate(service.address, seeds, FIRST_TOKENS)
    finally:
        service.kill()


def generate(address: str, seeds: Iterable[int], tokens: int) -> Drafts:
    """Continues tables of numbers, one after the other."""
    drafts = Drafts()
    with grpc.insecure_channel(address) as channel:
        stub = rpc.GenerationServiceStub(channel)
        for seed in seeds:
            speculation = wire.SpeculationParams(mode=ADAPTIVE, profile_key=KEY)
            sampling = wire.SamplingParams(temperature=1.0, seed=seed)
            spec = text_spec(table(seed), tokens, sampling=sampling, speculation=speculation)
            reply = stub.Generate(wire.GenerateRequest(spec=spec), timeout=CALL_SECONDS)
            expect_equal(reply.usage.completion_tokens, tokens, "tokens of a stream")
            add(drafts, Drafts(reply.speculation.draft_tokens, reply.speculation.accepted_tokens))
    return drafts


def add(sum_of: Drafts, more: Drafts) -> None:
    """Adds them up."""
    sum_of.drafted += more.drafted
    sum_of.accepted += more.accepted


def table(seed: int) -> str:
    """A table of random numbers, and the beginning of its next line."""
    chance = random.Random(seed)

    def number(digits: int) -> str:
        return "".join(chance.choice("0123456789") for _ in range(digits))

    lines = [f"Account {number(5)}: balance {number(5)}, limit {number(4)}" for _ in range(LINES)]
    return "\n".join([*lines, "Account "])


def operations(service: Service, operation: str, outcome: str) -> float:
    """How many of them the replica counts on the shared store."""
    return service.metrics().value(OPERATIONS, store="redis", op=operation, outcome=outcome)
