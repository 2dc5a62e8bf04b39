"""The wire interface seen by a foreign client: plain grpcio, with stubs generated from proto/.

scripts/conformance runs it. It prints PASS and FAIL lines; the last line counts them, and the exit status is 0 only if
none failed.
"""

import sys

from skipstone.v1 import generation_pb2_grpc as rpc

import check_discovery
import check_generation
import check_isolation
import check_lossless
import check_memory
import check_operation
import check_refusals
import session
from client import Context

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


def main() -> int:
    return session.run(
        "Checks a service over gRPC with a foreign client.",
        CHECKS,
        lambda service, channel, report: Context(service, rpc.GenerationServiceStub(channel), channel, report),
    )


if __name__ == "__main__":
    sys.exit(main())
