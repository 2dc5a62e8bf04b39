"""The topology of deploy/compose.yaml as plain processes on loopback, driven by a foreign client.

scripts/cluster runs it. It prints PASS and FAIL lines; the last line counts them, and the exit status is 0 only if none
failed.
"""

import argparse
import contextlib
import signal
import sys
import tempfile
from pathlib import Path

import check_calls
import check_dashboards
import check_drain
import check_failover
import check_metrics
import check_routing
from cluster import Cluster
from processes import ROOT, Envoy, Prometheus, Replica
from report import Report, Unmet
from traffic import Client

# In this order: the later ones rely on what the first finds out.
CHECKS = (check_routing, check_calls, check_metrics, check_dashboards, check_failover, check_drain)
LOG_LINES = 8


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs a cluster on loopback and checks it with a foreign client.")
    parser.add_argument("--binary", required=True, help="the service's binary")
    parser.add_argument("--model", required=True, help="the default model's file")
    parser.add_argument("--envoy", required=True, help="Envoy's binary")
    parser.add_argument("--keep", action="store_true", help="run the cluster without checks, until interrupted")
    arguments = parser.parse_args()
    # A polite end must end the processes, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
        folder = Path(name)
        try:
            cluster = start(arguments, folder, report, running)
        except Unmet as error:
            print(f"the cluster did not start: {error}", file=sys.stderr)
            return 1
        if arguments.keep:
            print("running until interrupted (Ctrl-C)", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
            return 0
        for checks in CHECKS:
            with report.guard(checks.__name__):
                checks.run(cluster)
        if report.failed:
            show_logs(folder)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


def start(arguments: argparse.Namespace, folder: Path, report: Report, running: contextlib.ExitStack) -> Cluster:
    """Starts everything. What has been started is ended by `running`, whatever happens."""
    replicas = []
    for name in ("skipstone-1", "skipstone-2"):
        replica = Replica(name, arguments.binary, arguments.model, folder)
        running.callback(replica.stop)
        replicas.append(replica)
        report.note(f"{name} on {replica.address}, metrics on {replica.metrics_address}")
    envoy = Envoy(arguments.envoy, replicas, folder)
    running.callback(envoy.stop)
    report.note(f"envoy on {envoy.address}, metrics on {envoy.metrics_address}")
    prometheus = Prometheus(replicas, envoy, folder)
    running.callback(prometheus.stop)
    report.note(f"prometheus on http://{prometheus.address}")
    service_config = ROOT / "examples/grpc-service-config.json"
    clients = Client(envoy.address), Client(envoy.address, service_config)
    for client in clients:
        running.callback(client.close)
    return Cluster(replicas, envoy, prometheus, *clients, report, service_config, folder)


def show_logs(folder: Path) -> None:
    """What the processes said last, for whoever looks for the reason of a failure."""
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        if lines:
            print(f"the end of {log.name}:", *lines, sep="\n  ", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
