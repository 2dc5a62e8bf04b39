"""A run of checks against one service: what the conformance scripts share."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType

import grpc

from report import Report
from service import Service

LOG_LINES = 40


def run(
    description: str,
    checks: Sequence[ModuleType],
    context: Callable[[Service, grpc.Channel, Report], object],
    settings: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Starts a service and runs `checks` against it, the last of which ends it. Returns the exit status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--binary", required=True, help="the service's binary")
    parser.add_argument("--model", required=True, help="the default model's file")
    arguments = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        # Without a service there is nothing to check: an error here ends the run.
        service = Service(arguments.binary, arguments.model, log, settings=settings)
        try:
            with grpc.insecure_channel(service.address) as channel:
                subject = context(service, channel, report)
                for check in checks:
                    with report.guard(check.__name__):
                        check.run(subject)
        finally:
            service.kill()
            if report.failed:
                lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
                print("the end of the service's log:", *lines, sep="\n  ", file=sys.stderr)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0
