"""Speculation: what drafting is worth, why, and what is drafted with."""

from grafana import GREEN, Board, Panel, Query, Row
from phases import COLORS, PHASES
from promql import mean, named, quantile, share, share_of_all, total, value

SPEEDUP, ACCEPTANCE = "spec_decode_speedup_ratio", "spec_decode_request_acceptance_ratio"
DRAFTS, DRAFTED, ACCEPTED = (f"spec_decode_num_{what}_total" for what in ("drafts", "draft_tokens", "accepted_tokens"))
ACCEPTED_AT, DRAFTED_AT = (f"spec_decode_num_{what}_tokens_per_pos_total" for what in ("accepted", "draft"))
LAYER_SKIP = 'source="layer_skip"'
# The bound 1 is written "1" by the service and "1.0" by Prometheus 3.
UP_TO_ONE = 'le=~"1|1\\\\.0"'
accepted_at = total(ACCEPTED_AT, by="position", over="$__range")
DECODING = {phase: metric for phase, metric in PHASES.items() if phase != "prefill"}


def by_source(part: str, whole: str) -> str:
    return share(total(part, by="source"), total(whole, by="source"))


def decode_share(phase: str) -> str:
    """The part of one phase in the time spent on decoding."""
    everything = " + ".join(total(metric) for metric in DECODING.values())
    return named(share(total(DECODING[phase]), everything), "phase", phase)


def skip_map(kind: str) -> Panel:
    """How often the draft steps leave out each layer's block of a kind."""
    skipped = total("spec_decode_sublayer_skipped_total", f'kind="{kind}"', by="layer")
    # A step whose token is dropped in the end counts as well, so the quotient can exceed 1 a
    # little.
    expression = f"clamp_max({share_of_all(skipped, total(DRAFTED, LAYER_SKIP))}, 1)"
    name = "MLP" if kind == "mlp" else kind
    return Panel(f"Skipped {name} blocks, by layer", f"Share of the layer-skip draft steps that left out the {name} block "
                 "of each layer. A new plan shows as a new pattern; blank layers always run.",
                 (Query(expression, "{{layer}}"),), "percentunit", kind="heatmap", width=12, height=10, axis="layer")


WORTH = Row("What drafting is worth", (
    Panel("Speedup against the plain step", "Tokens of a request x measured plain step / time spent, over requests that "
          "drafted. Above 1, drafting pays.",
          (Query(mean(SPEEDUP), "mean"), *(Query(quantile(level, SPEEDUP), f"p{level * 100:g}")
                                           for level in (0.1, 0.5, 0.9))),
          "none", decimals=2, thresholds=((1, GREEN),), low_is_bad=True, width=12),
    Panel("Requests that drafting slowed down", "Share of the requests that drafted and had a speedup of 1 or less. Small "
          "losses are the price of trying.",
          (Query(share(total(f"{SPEEDUP}_bucket", UP_TO_ONE), total(f"{SPEEDUP}_count")), "at most 1"),),
          "percentunit", maximum=1, width=6),
    Panel("Plain step", "The measured baseline of every speedup, by replica. If it rises, the machine got slower; compare "
          "speedups before and after with care.",
          (Query(f"max by (instance) ({value('spec_decode_plain_step_seconds')})", "{{instance}}"),), "s", width=6),
))

ACCEPTED_ROW = Row("What is accepted", (
    Panel("Acceptance by source", "Accepted / drafted tokens. layer_skip: drafts of the model's own layers; ngram: "
          "repetitions found in the text.", (Query(by_source(ACCEPTED, DRAFTED), "{{source}}"),),
          "percentunit", maximum=1),
    Panel("Acceptance by request", "Quantiles over requests that drafted: whether few requests carry the mean.",
          tuple(Query(quantile(level, ACCEPTANCE), f"p{level * 100:g}") for level in (0.1, 0.5, 0.9)),
          "percentunit", maximum=1),
    Panel("Tokens per cycle", "Accepted tokens and the one that verifying itself brings, for each cycle that drafted. "
          "A plain step brings 1.", (Query(f"1 + {by_source(ACCEPTED, DRAFTS)}", "{{source}}"),), "none", decimals=2,
          minimum=1),
    Panel("Accepted at each position, of all drafts", "How many of the drafts in the time range have an accepted token at "
          "each position, from 0. Short drafts count against the later positions.",
          (Query(f"sort_desc({share_of_all(accepted_at, total(DRAFTS, over='$__range'))})", "position {{position}}"),),
          "percentunit", kind="bargauge", maximum=1, decimals=1),
    Panel("Acceptance by position", "Accepted / drafted tokens at each position, from 0: how fast a draft loses its way.",
          (Query(share(total(ACCEPTED_AT, by="position"), total(DRAFTED_AT, by="position")),
                 "position {{position}}"),), "percentunit", maximum=1),
    Panel("Share of the output from drafts", "Accepted tokens / generated tokens. The rest came from plain steps, "
          "corrections and verify passes.",
          (Query(f"clamp_max({share_of_all(total(ACCEPTED, by='source'), total('generation_tokens_total'))}, 1)",
                 "{{source}}"),), "percentunit", maximum=1, stacked=True),
))

DRAFTING = Row("What is drafted", (
    Panel("Drafted tokens", "Tokens drafted a second, by source.", (Query(total(DRAFTED, by="source"), "{{source}}"),),
          "tok/s"),
    Panel("Mean draft length", "Drafted tokens of a cycle that drafted.",
          (Query(by_source(DRAFTED, DRAFTS), "{{source}}"),), "none", decimals=1),
    Panel("Draft length", "How many cycles a second drafted how many tokens; 0 is a plain step.",
          (Query(total("spec_decode_draft_length_bucket", by="le"), "{{le}}"),), "ops", kind="heatmap", axis="le"),
))

TIME = Row("Where the time goes", (
    Panel("Decoding time by phase", "Draft steps, verify passes and plain steps as shares of all decoding time.",
          (Query(" or ".join(decode_share(phase) for phase in DECODING), "{{phase}}"),), "percentunit",
          maximum=1, stacked=True, width=12, colors=COLORS),
    Panel("Plain decoding by reason", "Seconds a second in which streams did not draft. request: the caller said so; "
          "no_gain: no bet looked better; length: no room to draft; "
          "baseline: measures a plain step; backend: it can't draft.",
          (Query(total("spec_decode_off_seconds_total", by="reason"), "{{reason}}"),), "percentunit",
          stacked=True, width=12),
))

PLANS = Row("What is left out", (
    skip_map("attention"),
    skip_map("mlp"),
    Panel("Plan changes", "How often a stream drafts by another plan than before.",
          (Query(total("spec_decode_plan_changes_total"), "changes"),), "ops", width=12),
    Panel("Drafts by policy", "Cycles that drafted, by the policy that decided.",
          (Query(total("spec_decode_num_drafts_total", by="policy"), "{{policy}}"),), "ops", width=12),
))

BOARD = Board("speculation", "Skipstone / Speculation",
              "What drafting brings and costs on the selected replicas. docs/operations.md explains it.",
              (WORTH, ACCEPTED_ROW, DRAFTING, TIME, PLANS))
