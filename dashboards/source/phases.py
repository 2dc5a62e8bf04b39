"""What the engine spends its time on: expressions that more than one board shows."""

from grafana import BLUE, GREEN, ORANGE, PURPLE
from promql import SELECTED, named, total

# In the order of drawing, from the bottom up.
PHASES = {
    "prefill": "prefill_seconds_total",
    "plain": "plain_decode_seconds_total",
    "draft": "spec_decode_draft_seconds_total",
    "verify": "spec_decode_verify_seconds_total",
}
COLORS = {"prefill": PURPLE, "plain": ORANGE, "draft": BLUE, "verify": GREEN}


def time_by_phase() -> str:
    """Seconds of each phase a second, averaged over the replicas: 1 is an engine that never rests."""
    parts = (named(total(metric), "phase", phase) for phase, metric in PHASES.items())
    return f"({' or '.join(parts)}) / scalar(count(up{{{SELECTED}}} == 1))"


def busy(by: str = "") -> str:
    """The same, all phases together."""
    return " + ".join(total(metric, by=by) for metric in PHASES.values())
