"""The overview: traffic, errors, latency, and how full the replicas are."""

from typing import Any

from grafana import GREEN, RED, YELLOW, Board, Panel, Query, Row
from phases import COLORS, time_by_phase
from promql import SELECTED, mean, quantile, total, value

LEVELS = (0.5, 0.9, 0.99)
REFUSED = 'code="RESOURCE_EXHAUSTED"'
# The other codes are the callers' doing; these are the service's.
FAULTS = 'code=~"INTERNAL|UNKNOWN|DATA_LOSS"'


def quantiles(metric: str) -> tuple[Query, ...]:
    return tuple(Query(quantile(level, metric), f"p{level * 100:g}") for level in LEVELS)


def stat(title: str, description: str, expression: str, unit: str, **fields: Any) -> Panel:
    return Panel(title, description, (Query(expression),), unit, kind="stat", width=3, height=4, **fields)


NOW = Row("Now", (
    stat("Replicas up", "Replicas that Prometheus reaches.", f"sum(up{{{SELECTED}}})", "none",
         thresholds=((1, GREEN),), low_is_bad=True),
    stat("Requests", "Calls that ended, a second.", total("requests_total"), "reqps", decimals=2),
    stat("Tokens", "Tokens generated, a second. A request counts when it ends.",
         total("generation_tokens_total"), "tok/s", decimals=0),
    stat("Service errors", "Share of calls that failed by a fault of the service: INTERNAL, UNKNOWN or "
         "DATA_LOSS.", f"({total('requests_total', FAULTS)} or vector(0)) / ({total('requests_total')} > 0)",
         "percentunit", decimals=2, thresholds=((0.001, YELLOW), (0.01, RED))),
    stat("First token, p90", "Nine of ten requests get their first token faster than this.",
         quantile(0.9, "time_to_first_token_seconds"), "s", thresholds=((1, YELLOW), (5, RED))),
    stat("Speedup", "Mean over requests that drafted: what they would have taken plainly, divided by what they took. "
         "Above 1, drafting pays.", mean("spec_decode_speedup_ratio"), "none", decimals=2, low_is_bad=True,
         thresholds=((0.95, YELLOW), (1, GREEN))),
    stat("Waiting", "Requests that wait for a place in a batch, all replicas together.",
         f"sum({value('requests_waiting')})", "none", thresholds=((1, YELLOW), (32, RED))),
    stat("KV cache", "Leased share of the key/value cache of the fullest replica.",
         f"max({value('kv_cache_usage_ratio')})", "percentunit", maximum=1, decimals=0,
         thresholds=((0.8, YELLOW), (0.95, RED))),
))

TRAFFIC = Row("Traffic", (
    Panel("Calls by method", "Calls that ended, a second.",
          (Query(total("requests_total", by="method"), "{{method}}"),), "reqps", width=6),
    Panel("Calls that failed, by code", "Calls that ended with another code than OK, a second. INVALID_ARGUMENT, "
          "CANCELLED and DEADLINE_EXCEEDED are the callers' doing; RESOURCE_EXHAUSTED is a full queue, "
          "UNAVAILABLE a replica that drains.",
          (Query(total("requests_total", 'code!="OK"', by="code"), "{{code}}"),), "reqps", width=6,
          may_be_empty="every call succeeded"),
    Panel("Generations by how they ended", "end_of_sequence: the model ended; stop: a stop string or token; length: the limit; "
          "cancelled, deadline, stalled: the reader left, was late, or read nothing.",
          (Query(total("request_finished_total", by="reason"), "{{reason}}"),), "reqps", width=6),
    Panel("Tokens", "Tokens a second, counted when their request ends.",
          (Query(total("prompt_tokens_total"), "prompt"), Query(total("generation_tokens_total"), "generated")),
          "tok/s", width=6),
))

LATENCY = Row("Latency", (
    Panel("Time to first token", "From submission to the first token, waiting included.",
          quantiles("time_to_first_token_seconds"), "s"),
    Panel("Inter-token latency", "Between two messages of a stream. A message carries all tokens of a step, so drafting "
          "can raise this and still be faster.", quantiles("inter_token_latency_seconds"), "s"),
    Panel("Time per output token", "Mean of each request, after its first token: what drafting should lower.",
          quantiles("time_per_output_token_seconds"), "s"),
    Panel("Whole requests", "From submission to the last token. Long answers take long.",
          quantiles("e2e_request_latency_seconds"), "s"),
    Panel("Time in the queue", "From submission to the first pass.", quantiles("request_queue_time_seconds"), "s"),
    Panel("Speedup", "Against the measured plain step, mean over requests that drafted. Below 1, drafting loses.",
          (Query(mean("spec_decode_speedup_ratio"), "mean"),), "none", decimals=2, thresholds=((1, GREEN),),
          low_is_bad=True),
))

SATURATION = Row("Saturation", (
    Panel("Running and waiting", "Requests in the batches, and requests that wait for a place.",
          (Query(f"sum({value('requests_running')})", "running"), Query(f"sum({value('requests_waiting')})", "waiting")),
          "none"),
    Panel("Refused", "Calls refused because a queue was full, a second.",
          (Query(f"{total('requests_total', REFUSED)} or vector(0)", "refused"),), "reqps"),
    Panel("KV cache", "Leased share of the key/value cache pages, by replica. Full, new requests wait.",
          (Query(f"max by (instance) ({value('kv_cache_usage_ratio')})", "{{instance}}"),), "percentunit",
          maximum=1, thresholds=((0.95, RED),)),
    Panel("Engine time by phase", "Share of the time, averaged over replicas. The gap to 100 % is idle time: without one, "
          "the engines are saturated.", (Query(time_by_phase(), "{{phase}}"),), "percentunit", stacked=True, maximum=1,
          colors=COLORS),
    Panel("Steps of the batch", "Passes of the engines, a second. None while requests run: an engine is stalled.",
          (Query(total("engine_steps_total"), "steps"),), "ops"),
    Panel("Alerts", "Alerts of this service that are pending or firing. docs/operations.md has a section on each.",
          (Query('ALERTS{alertname=~"Skipstone.*"}'),), "none", kind="table", may_be_empty="no alert is raised"),
))

BOARD = Board("overview", "Skipstone / Overview",
              "Traffic, errors, latency and saturation of the selected replicas. docs/operations.md explains it.",
              (NOW, TRAFFIC, LATENCY, SATURATION))
