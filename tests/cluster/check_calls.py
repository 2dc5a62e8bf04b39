"""What a client sees through the load balancer is what it would see without one."""

import subprocess
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from skipstone.v1 import generation_pb2 as wire

from client import CALL_SECONDS, Context, Stream, failure_of, text_spec
from cluster import Cluster
from processes import ROOT
from report import expect, expect_equal, expect_within

LONG_TOKENS = 4000
DEADLINE_SECONDS = 0.5
SETTLE_SECONDS = 5.0


def run(cluster: Cluster) -> None:
    check = cluster.report.check
    with check("calls: the Python example streams"):
        example(cluster)
    with check("calls: a deadline that passes in the middle of a stream is DEADLINE_EXCEEDED"):
        error = long_stream(cluster, timeout=DEADLINE_SECONDS).failure()
        expect_equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED, "code")
    with check("calls: a refused request keeps its status and its details"):
        request = wire.GenerateRequest(spec=text_spec("a", 0))
        error = failure_of(lambda: cluster.client.stub.Generate(request, timeout=CALL_SECONDS))
        expect_equal(error.code(), grpc.StatusCode.INVALID_ARGUMENT, "code")
        info = error_details_pb2.ErrorInfo()
        details = [detail for detail in rpc_status.from_call(error).details if detail.Unpack(info)]
        expect_equal((len(details), info.reason), (1, "INVALID_REQUEST"), "details and reason")
    with check("calls: cancelling a stream stops it on its replica"):
        stream = long_stream(cluster, timeout=CALL_SECONDS)
        stream.await_deltas(2)
        stream.call.cancel()
        expect_within(SETTLE_SECONDS, lambda: running(cluster) == 0,
                      lambda: f"{running(cluster):.0f} generations are running")


def example(cluster: Cluster) -> None:
    command = [sys.executable, str(ROOT / "examples/python/stream.py"), "--address", cluster.envoy.address,
               "--session", "example", "--max-new-tokens", "24", "Why is the sky blue?"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CALL_SECONDS, check=False)
    expect_equal(done.returncode, 0, f"exit status; standard error: {done.stderr}")
    expect(len(done.stdout.split()) > 5, f"the answer is {done.stdout!r}")
    cluster.report.note(done.stderr.strip().splitlines()[-1])


def long_stream(cluster: Cluster, timeout: float) -> Stream:
    """A stream that does not end by itself in time."""
    context = Context(cluster.replicas[0].service, cluster.client.stub, cluster.client.channel, cluster.report)
    return Stream(context, text_spec("The longest story", LONG_TOKENS), timeout=timeout)


def running(cluster: Cluster) -> float:
    """Generations in all replicas."""
    return sum(replica.service.running() for replica in cluster.replicas)
