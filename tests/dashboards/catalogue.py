"""The metrics that dashboards and rules may use: the table of crates/engine/src/record/catalogue.rs, and what rules record."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "crates/engine/src/record/catalogue.rs"
RULES = sorted((ROOT / "deploy/prometheus/rules").glob("*.yaml"))

# Metrics that dashboards and rules use already and that the catalogue does not list yet: kind and
# labels. A metric that has arrived in the catalogue must leave this list.
ANNOUNCED: dict[str, tuple[str, tuple[str, ...]]] = {}

# What Prometheus adds to every series it scrapes.
TARGET_LABELS = frozenset({"job", "instance"})
# What Prometheus itself provides.
BUILT_IN = {"up": TARGET_LABELS, "ALERTS": TARGET_LABELS | {"alertname", "alertstate", "severity"}}

# NAME = Kind, UNIT, "name", ["label", ...],
ENTRY = re.compile(r'^\s*[A-Z_]+ = (Counter|Gauge|Histogram)(?:\([A-Z_]+\))?, \w+, "(\w+)", \[([^\]]*)\],', re.MULTILINE)
CONSTANTS = re.compile(r"^\s*[A-Z_]+ = (?:Counter|Gauge|Histogram)", re.MULTILINE)


@dataclass(frozen=True)
class Series:
    """The series of one name."""

    labels: frozenset[str]
    # Counters and the parts of histograms, which only rise: they need rate() or the like.
    rises: bool


def catalogue() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Kind and labels of the metrics in the table."""
    text = SOURCE.read_text()
    found = {f"skipstone_{name}": (kind, tuple(re.findall(r'"(\w+)"', labels)))
             for kind, name, labels in ENTRY.findall(text)}
    if not found or len(found) != len(CONSTANTS.findall(text)):
        raise ValueError(f"{SOURCE}: {len(found)} of {len(CONSTANTS.findall(text))} entries could be read; see ENTRY")
    return found


def arrived() -> list[str]:
    """Announced metrics that the catalogue lists by now."""
    return sorted(ANNOUNCED.keys() & catalogue().keys())


def known_series() -> dict[str, Series]:
    """All series that may be used, by name."""
    known = {name: Series(labels, rises=False) for name, labels in BUILT_IN.items()}
    for name, (kind, labels) in {**ANNOUNCED, **catalogue()}.items():
        known.update(series_of(name, kind, labels))
    for rule in (rule for rules in RULES for rule in rules_of(rules) if "record" in rule):
        # The labels before the first colon are the ones that the rule keeps, by the convention for
        # such names.
        kept = rule["record"].split(":")[0].split("_")
        known[rule["record"]] = Series(TARGET_LABELS | set(kept), rises=False)
    return known


def series_of(name: str, kind: str, labels: tuple[str, ...]) -> dict[str, Series]:
    """The series that a metric shows up as."""
    own = TARGET_LABELS | set(labels)
    if kind != "Histogram":
        return {name: Series(own, kind == "Counter")}
    parts = {"_bucket": own | {"le"}, "_sum": own, "_count": own}
    return {name + suffix: Series(frozenset(part), True) for suffix, part in parts.items()}


def rules_of(path: Path) -> list[dict]:
    """All rules of a file."""
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
