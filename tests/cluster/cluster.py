"""What every check gets, and the questions that several of them ask."""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from processes import Envoy, Prometheus, Replica
from report import Report, expect, expect_within
from traffic import SESSIONS, Client, Outcome

# The access log is written shortly after a request has ended.
LOG_SECONDS = 5.0
# Health checks run every second; a replica counts as gone after two that fail.
NOTICE_SECONDS = 15.0


def expect_answered(outcomes: list[Outcome]) -> None:
    """There were requests, and none of them failed."""
    expect(outcomes, "there was no request")
    lost = [outcome.error for outcome in outcomes if outcome.error]
    expect(not lost, f"{len(lost)} of {len(outcomes)} requests failed; the first: {lost[0] if lost else None}")


@dataclass
class Cluster:
    """The running cluster."""

    replicas: list[Replica]
    envoy: Envoy
    prometheus: Prometheus
    # Tries nothing twice.
    client: Client
    # Follows examples/grpc-service-config.json.
    patient_client: Client
    report: Report
    service_config: Path
    # For logs; it goes with the cluster.
    folder: Path
    # Which replica each session belongs to; filled by the first check.
    homes: dict[str, str] = field(default_factory=dict)

    def replicas_of(self, outcomes: list[Outcome]) -> list[str]:
        """The name of the replica that answered each request."""
        ids = [outcome.request_id for outcome in outcomes]
        expect_within(LOG_SECONDS, lambda: set(ids) <= set(self.envoy.access_log()),
                      lambda: "some requests are missing in Envoy's access log")
        log = self.envoy.access_log()
        names = {replica.address: replica.name for replica in self.replicas}
        return [names.get(log[one]["replica"], "none") for one in ids]

    def homes_now(self, rounds: int) -> dict[str, set[str]]:
        """Where the requests of each session go, asked one after the other."""
        # In another order each time: which replica is asked must depend on the session alone.
        order = [session for number in range(rounds) for session in Random(number).sample(SESSIONS, len(SESSIONS))]
        outcomes = [self.client.tokenize(session) for session in order]
        expect_answered(outcomes)
        found: dict[str, set[str]] = {session: set() for session in SESSIONS}
        for outcome, replica in zip(outcomes, self.replicas_of(outcomes)):
            found[outcome.session or ""].add(replica)
        return found

    def session_of(self, replica: Replica) -> str:
        """A session whose home is the replica."""
        return next(session for session, home in self.homes.items() if home == replica.name)

    def bring_back(self, replica: Replica) -> None:
        """Starts a replica that has ended, and waits until Envoy sends it requests."""
        replica.come_back()
        expect_within(NOTICE_SECONDS, lambda: replica.address in self.envoy.healthy(),
                      lambda: f"{replica.name} is not among the healthy ones: {self.envoy.healthy()}")
        # Envoy's threads hear of it a moment later than its admin interface.
        session = self.session_of(replica)
        expect_within(NOTICE_SECONDS, lambda: self.replicas_of([self.client.tokenize(session)]) == [replica.name],
                      lambda: f"{replica.name} gets no requests")

    def expect_sessions_at_home(self) -> None:
        """Every session is where it was at the beginning."""
        found = self.homes_now(2)
        strayed = {session: sorted(places) for session, places in found.items() if places != {self.homes[session]}}
        expect(not strayed, f"these sessions are not where they were: {strayed}, wanted {self.homes}")
