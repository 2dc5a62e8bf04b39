"""The OpenAI-compatible interface seen by the official client, with gRPC beside it to compare.

scripts/openai-conformance runs it. It prints PASS and FAIL lines; the last line counts them, and the exit status is 0 only if
none failed.
"""

import os
import sys

import check_answers
import check_operation
import check_refusals
import session
from client import Context, client_of, stub_of

# The last one ends the service.
CHECKS = (check_answers, check_refusals, check_operation)
SETTINGS = {
    "SKIPSTONE_OPENAI__ENABLED": "true",
    "SKIPSTONE_OPENAI__LISTEN": "127.0.0.1:0",
    "SKIPSTONE_ENGINE__MAX_STREAMS": str(check_operation.PLACES),
    "SKIPSTONE_ENGINE__MAX_WAITING": str(check_operation.WAITING),
}


def main() -> int:
    # The service is on loopback.
    os.environ["NO_PROXY"] = "127.0.0.1"
    return session.run(
        "Checks the OpenAI-compatible interface with the official client.",
        CHECKS,
        lambda service, channel, report: Context(
            service, client_of(service.openai_address), stub_of(channel), report
        ),
        SETTINGS,
    )


if __name__ == "__main__":
    sys.exit(main())
