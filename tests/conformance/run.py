"""The wire interface seen by a foreign client: plain grpcio, with stubs generated from proto/.

scripts/conformance runs it. It prints PASS and FAIL lines; the last line counts them, and the exit status is 0 only if
none failed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import grpc
from skipstone.v1 import generation_pb2_grpc as rpc

import check_discovery
import check_generation
import check_isolation
import check_lossless
import check_memory
import check_operation
import check_refusals
from client import Context
from report import Report
from service import Service

# The last one ends the service.
CHECKS = (
    check_discovery,
    check_generation,
    check_lossless,
    check_memory,
    check_isolation,
    check_refusals,
    check_operation,
)
LOG_LINES = 40


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks a service over gRPC with a foreign client.")
    parser.add_argument("--binary", required=True, help="the service's binary")
    parser.add_argument("--model", required=True, help="the default model's file")
    arguments = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        # Without a service there is nothing to check: an error here ends the run.
        service = Service(arguments.binary, arguments.model, log)
        try:
            with grpc.insecure_channel(service.address) as channel:
                context = Context(service, rpc.GenerationServiceStub(channel), channel, report)
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
