"""The replicas side by side: one that differs from the others is the first thing to look at."""

from typing import Any

from grafana import GREEN, RED, Board, Panel, Query, Row
from overview import FAULTS
from phases import busy
from promql import SELECTED, mean, quantile, share, total, value

NAME = "{{instance}}"
ACCEPTED, DRAFTED = "spec_decode_num_accepted_tokens_total", "spec_decode_num_draft_tokens_total"


def one(title: str, description: str, expression: str, unit: str, **fields: Any) -> Panel:
    """A line for each replica."""
    return Panel(title, description, (Query(expression, NAME),), unit, **fields)


def each(metric: str) -> str:
    return f"max by (instance) ({value(metric)})"


acceptance = share(total(ACCEPTED, by="instance"), total(DRAFTED, by="instance"))

COLUMNS = (
    ("", "", f"max by (instance, version, model) ({value('build_info')})"),
    ("Up", "none", f"max by (instance) (up{{{SELECTED}}})"),
    ("Running", "none", each("requests_running")),
    ("Waiting", "none", each("requests_waiting")),
    ("KV cache", "percentunit", each("kv_cache_usage_ratio")),
    ("Tokens", "tok/s", total("generation_tokens_total", by="instance")),
    ("Busy", "percentunit", busy(by="instance")),
    ("Plain step", "s", each("spec_decode_plain_step_seconds")),
    ("Acceptance", "percentunit", acceptance),
    ("Speedup", "none", mean("spec_decode_speedup_ratio", by="instance")),
)

TABLE = Row("Now", (
    Panel("Replicas", "One line a replica. A replica that is down has no values of its own.",
          tuple(Query(expression) for _, _, expression in COLUMNS), "none", kind="table", width=24, height=7,
          decimals=2, columns=tuple((heading, unit) for heading, unit, _ in COLUMNS)),
))

LOAD = Row("Load", (
    one("Up", "1 while Prometheus reaches the replica.", f"max by (instance) (up{{{SELECTED}}})", "none", maximum=1),
    one("Calls", "Calls that ended, a second.", total("requests_total", by="instance"), "reqps"),
    one("Service errors", "Calls that failed by a fault of the service, a second.",
        f"{total('requests_total', FAULTS, by='instance')} or 0 * {each('requests_running')}", "reqps"),
    one("Running", "Requests in the batch.", each("requests_running"), "none"),
    one("Waiting", "Requests that wait for a place.", each("requests_waiting"), "none"),
    one("KV cache", "Leased share of the key/value cache.", each("kv_cache_usage_ratio"), "percentunit", maximum=1,
        thresholds=((0.95, RED),)),
    one("Busy", "Share of the time that the engine computes. At 100 % the replica is saturated.", busy(by="instance"),
        "percentunit", maximum=1),
    one("Steps of the batch", "Passes of the engine, a second. None while requests run: the engine is stalled.",
        total("engine_steps_total", by="instance"), "ops"),
    one("Tokens", "Tokens generated, a second, counted when their request ends.",
        total("generation_tokens_total", by="instance"), "tok/s"),
))

LATENCY = Row("Latency", (
    one("Time to first token, p90", "From submission to the first token, waiting included.",
        quantile(0.9, "time_to_first_token_seconds", by="instance"), "s"),
    one("Time per output token, p50", "Mean of each request after its first token.",
        quantile(0.5, "time_per_output_token_seconds", by="instance"), "s"),
    one("Time in the queue, p90", "From submission to the first pass.",
        quantile(0.9, "request_queue_time_seconds", by="instance"), "s"),
))

DRAFTING = Row("Drafting", (
    one("Speedup", "Mean over requests that drafted. Replicas learn from their own traffic, so they may differ.",
        mean("spec_decode_speedup_ratio", by="instance"), "none", decimals=2, thresholds=((1, GREEN),), low_is_bad=True),
    one("Acceptance", "Accepted / drafted tokens.", acceptance, "percentunit", maximum=1),
    one("Plain step", "The measured baseline. A replica with a slower one has a slower machine, or a neighbour on it.",
        each("spec_decode_plain_step_seconds"), "s"),
))

BOARD = Board("replicas", "Skipstone / Replicas",
              "The selected replicas side by side. docs/operations.md explains it.",
              (TABLE, LOAD, LATENCY, DRAFTING))
