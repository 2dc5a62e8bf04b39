"""The inverse of expressions.py: each of these expressions has a fault that it must find."""

import sys

from catalogue import known_series
from expressions import faults_of

REFUSED = (
    ("sum(rate(skipstone_requests_total[5m])", "does not parse"),
    ("skipstone_requests_served_total", "not in the catalogue"),
    ("rate(skipstone_time_to_first_token_seconds[5m])", "not in the catalogue"),
    ("skipstone_requests_running_bucket", "not in the catalogue"),
    ("skipstone_prompt_tokens_total", "without rate()"),
    ("sum(skipstone_time_to_first_token_seconds_count)", "without rate()"),
    ('rate(skipstone_requests_total{status="OK"}[5m])', "selects by status"),
    ('skipstone_requests_running{source="ngram"}', "selects by source"),
    ("sum by (model) (rate(skipstone_requests_total[5m]))", "groups by model"),
    ("sum by (source) (skipstone_requests_running) / on (source) up", "groups by source"),
    ("rate(skipstone_requests_total[$interval])", "has a variable"),
    ("sum(up) + instance:skipstone_nothing:sum", "not in the catalogue"),
)
ACCEPTED = (
    'sum by (code) (rate(skipstone_requests_total{job=~"$job"}[$__rate_interval]))',
    "histogram_quantile(0.9, sum by (le) (rate(skipstone_time_to_first_token_seconds_bucket[5m])))",
    "max_over_time(skipstone_requests_waiting[5m]) and on (job, instance) up == 1",
)


def main() -> int:
    known, faults = known_series(), []
    for expression, wanted in REFUSED:
        found = list(faults_of(expression, known, set()))
        if not any(wanted in fault for fault in found):
            faults.append(f"{expression}: wanted {wanted!r}, found {found}")
    for expression in ACCEPTED:
        faults += [f"{expression}: refused: {fault}" for fault in faults_of(expression, known, set())]
    print(*faults, sep="\n", file=sys.stderr, end="\n" if faults else "")
    print(f"{len(REFUSED)} faulty expressions and {len(ACCEPTED)} sound ones told apart" if not faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
