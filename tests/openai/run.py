"""The OpenAI-compatible interface seen by the official client, with gRPC beside it to compare.

scripts/openai-conformance runs it. It prints PASS and FAIL lines; the last line counts them, and the exit status is 0 only if
none failed.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import grpc

import check_answers
import check_operation
import check_refusals
from client import Context, client_of, stub_of
from report import Report
from service import Service

# The last one ends the service.
CHECKS = (check_answers, check_refusals, check_operation)
LOG_LINES = 40
SETTINGS = {
    "SKIPSTONE_OPENAI__ENABLED": "true",
    "SKIPSTONE_OPENAI__LISTEN": "127.0.0.1:0",
    "SKIPSTONE_ENGINE__MAX_STREAMS": str(check_operation.PLACES),
    "SKIPSTONE_ENGINE__MAX_WAITING": str(check_operation.WAITING),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks the OpenAI-compatible interface with the official client.")
    parser.add_argument("--binary", required=True, help="the service's binary")
    parser.add_argument("--model", required=True, help="the default model's file")
    arguments = parser.parse_args()
    # The service is on loopback.
    os.environ["NO_PROXY"] = "127.0.0.1"
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        # Without a service there is nothing to check: an error here ends the run.
        service = Service(arguments.binary, arguments.model, log, settings=SETTINGS)
        try:
            with grpc.insecure_channel(service.address) as channel:
                context = Context(service, client_of(service.openai_address), stub_of(channel), report)
                for checks in CHECKS:
                    with report.guard(checks.__name__):
                        checks.run(context)
        finally:
            service.kill()
            if report.failed:
                lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
                print("the end of the service's log:", *lines, sep="\n  ", file=sys.stderr)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
