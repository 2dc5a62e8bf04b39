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
import check_turns
import session
from client import BACKEND, IS_NATIVE, Context

# The last one ends the service.
NATIVE = (
    check_discovery,
    check_generation,
    check_lossless,
    check_memory,
    check_isolation,
    check_refusals,
    check_operation,
)
# Left out by design: drafts, several streams in one batch, and the memory of the native engine.
ONE_AT_A_TIME = (check_discovery, check_generation, check_turns, check_refusals, check_operation)


def main() -> int:
    return session.run(
        "Checks a service over gRPC with a foreign client.",
        NATIVE if IS_NATIVE else ONE_AT_A_TIME,
        lambda service, channel, report: Context(service, rpc.GenerationServiceStub(channel), channel, report),
        {"SKIPSTONE_ENGINE__BACKEND": BACKEND},
    )


if __name__ == "__main__":
    sys.exit(main())
