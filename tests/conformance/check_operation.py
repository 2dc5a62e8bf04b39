"""What an operator sees: metrics, and a shutdown that loses nothing."""

import queue
import threading

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from skipstone.v1 import generation_pb2 as wire
from skipstone.v1 import generation_pb2_grpc as rpc

from client import CALL_SECONDS, IS_NATIVE, LIGHT, SERVICE_NAME, Context, Neighbours, generate, text_spec
from metrics_page import Page
from report import Unmet, expect, expect_equal, expect_within

SETTLE_SECONDS = 5.0

# After all checks so far, each of these has counted something.
MOVED = (
    ("skipstone_requests_total", {"method": "Generate", "code": "OK"}),
    ("skipstone_requests_total", {"method": "Generate", "code": "INVALID_ARGUMENT"}),
    ("skipstone_requests_total", {"method": "Generate", "code": "NOT_FOUND"}),
    ("skipstone_requests_total", {"method": "GenerateStream", "code": "OK"}),
    ("skipstone_requests_total", {"method": "GenerateStream", "code": "CANCELLED"}),
    ("skipstone_requests_total", {"method": "GenerateStream", "code": "DEADLINE_EXCEEDED"}),
    ("skipstone_requests_total", {"method": "Tokenize", "code": "OK"}),
    ("skipstone_request_finished_total", {"reason": "length"}),
    ("skipstone_request_finished_total", {"reason": "deadline"}),
    ("skipstone_request_finished_total", {}),
    ("skipstone_prompt_tokens_total", {}),
    ("skipstone_generation_tokens_total", {}),
    ("skipstone_prefill_seconds_total", {}),
    ("skipstone_plain_decode_seconds_total", {}),
    ("skipstone_spec_decode_num_drafts_total", {"source": "layer_skip"}),
    ("skipstone_spec_decode_num_draft_tokens_total", {"source": "layer_skip"}),
    ("skipstone_spec_decode_num_accepted_tokens_total", {"source": "layer_skip"}),
    ("skipstone_spec_decode_num_accepted_tokens_per_pos_total", {"position": "0"}),
    ("skipstone_spec_decode_draft_seconds_total", {}),
    ("skipstone_spec_decode_verify_seconds_total", {}),
    ("skipstone_spec_decode_sublayer_skipped_total", {"layer": "10", "kind": "mlp"}),
    ("skipstone_spec_decode_plain_step_seconds", {}),
    ("skipstone_time_to_first_token_seconds_count", {}),
    ("skipstone_inter_token_latency_seconds_count", {}),
    ("skipstone_time_per_output_token_seconds_count", {}),
    ("skipstone_e2e_request_latency_seconds_count", {}),
    ("skipstone_request_queue_time_seconds_count", {}),
    ("skipstone_spec_decode_speedup_ratio_count", {}),
    ("skipstone_spec_decode_request_acceptance_ratio_count", {}),
)


# Of these, those that only drafts move.
DRAFTS = tuple(name for name, _ in MOVED if "spec_decode" in name and "plain_step" not in name)


def run(context: Context) -> None:
    check = context.report.check
    with check("the metrics page is well-formed and moved with the calls"):
        page = context.service.metrics()
        page.check()
        moved = MOVED if IS_NATIVE else [case for case in MOVED if case[0] not in DRAFTS]
        still = [f"{name}{labels}" for name, labels in moved if page.value(name, **labels) <= 0]
        expect(not still, f"nothing was counted in {still}")
        context.report.note(f"{len(page.samples)} samples of {len(page.kinds)} metrics")
    with check("nothing is left in the batch, the queue and the cache"):
        page = context.service.metrics()
        for name in ("requests_running", "requests_waiting", "kv_cache_usage_ratio"):
            expect_equal(page.value(f"skipstone_{name}"), 0, name)
    with check("the metrics count what a reply says"):
        bookkeeping(context)
    with check("SIGTERM: running streams finish, new requests are UNAVAILABLE, exit status 0"):
        shutdown(context)


def bookkeeping(context: Context) -> None:
    before = context.service.metrics()
    reply = generate(context, text_spec("One, two, three, four,", 40, speculation=LIGHT))
    stats = reply.speculation
    wanted = {
        "requests_total": 1,
        "request_finished_total": 1,
        "prompt_tokens_total": reply.usage.prompt_tokens,
        "generation_tokens_total": reply.usage.completion_tokens,
        "spec_decode_num_drafts_total": stats.drafts,
        "spec_decode_num_draft_tokens_total": stats.draft_tokens,
        "spec_decode_num_accepted_tokens_total": stats.accepted_tokens,
        "time_to_first_token_seconds_count": 1,
        "e2e_request_latency_seconds_count": 1,
    }

    def moved(after: Page) -> dict:
        return {name: after.value(f"skipstone_{name}") - before.value(f"skipstone_{name}") for name in wanted}

    # The reply may overtake the counting.
    expect_within(SETTLE_SECONDS, lambda: moved(context.service.metrics()) == wanted,
                  lambda: f"counted {moved(context.service.metrics())}, wanted {wanted}")
    name = "skipstone_spec_decode_num_accepted_tokens_per_pos_total"
    after = context.service.metrics()
    for position, count in enumerate(stats.accepted_per_position):
        labels = {"position": str(position)}
        counted = after.value(name, **labels) - before.value(name, **labels)
        expect_equal(counted, count, f"accepted at position {position}")


def shutdown(context: Context) -> None:
    health = health_pb2_grpc.HealthStub(context.channel)
    watched: queue.Queue = queue.Queue()

    def watch() -> None:
        try:
            for reply in health.Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME)):
                watched.put(reply.status)
        except grpc.RpcError as error:
            watched.put(error.code())

    # A client that watches the health must hear of the end, and must not hold it up.
    threading.Thread(target=watch, daemon=True).start()
    expect_equal(watched.get(timeout=CALL_SECONDS), health_pb2.HealthCheckResponse.SERVING, "health before SIGTERM")
    neighbours = Neighbours(context)
    context.service.terminate()
    status = watched.get(timeout=SETTLE_SECONDS)
    expect_equal(status, health_pb2.HealthCheckResponse.NOT_SERVING, "health after SIGTERM")
    expect_refused(context.stub, "an open connection")
    with grpc.insecure_channel(context.service.address) as channel:
        expect_refused(rpc.GenerationServiceStub(channel), "a new connection")
    neighbours.expect_running()
    neighbours.expect_unchanged()
    status, output = context.service.wait()
    expect_equal(status, 0, "exit status")
    expect_equal(output, "", "standard output after the ready line")


def expect_refused(stub: rpc.GenerationServiceStub, where: str) -> None:
    """New work is refused; a call that overtakes the signal may still be answered."""
    seen: list = []

    def refused() -> bool:
        try:
            stub.Generate(wire.GenerateRequest(spec=text_spec("a", 1)), timeout=CALL_SECONDS)
            seen.append("an answer")
            return False
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise Unmet(f"a new request on {where}: {error.code().name}, {error.details()!r}") from error
            return True

    expect_within(SETTLE_SECONDS, refused, lambda: f"a new request on {where} still gets {seen[-1]}")
