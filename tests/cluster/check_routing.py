"""Where requests go while all replicas are well."""

import threading
from collections import Counter

from cluster import Cluster, expect_answered
from report import expect, expect_equal
from traffic import Outcome

ROUNDS = 6
SINGLE_REQUESTS = 24
# More than 1.5 times half of them, so that one replica may not take all.
BURST = 14


def run(cluster: Cluster) -> None:
    check = cluster.report.check
    with check("routing: the requests of a session stay on one replica"):
        found = cluster.homes_now(ROUNDS)
        torn = {session: sorted(places) for session, places in found.items() if len(places) != 1}
        expect(not torn, f"sessions on more than one replica: {torn}")
        cluster.homes = {session: places.pop() for session, places in found.items()}
        cluster.report.note(f"{len(found)} sessions, {ROUNDS} requests each: {shares(list(cluster.homes.values()))}")
    with check("routing: every replica is home to some sessions"):
        expect_equal(set(cluster.homes.values()), {replica.name for replica in cluster.replicas}, "homes of the sessions")
    with check("routing: generations go where the other requests of their session go"):
        outcomes = [cluster.client.generate(session) for session in cluster.homes]
        expect_answered(outcomes)
        expect_equal(cluster.replicas_of(outcomes), list(cluster.homes.values()), "replicas of the generations")
    with check("routing: requests without a session are spread"):
        outcomes = [cluster.client.tokenize(None) for _ in range(SINGLE_REQUESTS)]
        expect_answered(outcomes)
        places = cluster.replicas_of(outcomes)
        expect_equal(set(places), {replica.name for replica in cluster.replicas}, "replicas that got requests")
        cluster.report.note(f"{SINGLE_REQUESTS} requests: {shares(places)}")
    with check("routing: a burst of one session spills over to the other replica"):
        burst(cluster)


def burst(cluster: Cluster) -> None:
    session, home = next(iter(cluster.homes.items()))
    outcomes: list[Outcome] = []
    threads = [threading.Thread(target=lambda: outcomes.append(cluster.client.generate(session))) for _ in range(BURST)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect_answered(outcomes)
    places = Counter(cluster.replicas_of(outcomes))
    cluster.report.note(f"{BURST} requests at once: {shares(list(places.elements()))}; home is {home}")
    expect(places[home] > BURST / 2, f"most of a session's requests left its home: {places}")
    expect(places[home] < BURST, f"all {BURST} requests went to {home}: hash_balance_factor has no effect")


def shares(places: list[str]) -> str:
    """How many each replica has."""
    return ", ".join(f"{count} on {name}" for name, count in sorted(Counter(places).items()))
