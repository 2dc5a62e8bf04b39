"""Checks every expression of dashboards and rules: it parses, and asks only for series that exist, by labels they have.

Also what readers of dashboards and alerts rely on: titles, descriptions, units, unique ids, runbooks that exist.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import promql_parser as promql

from catalogue import ANNOUNCED, ROOT, RULES, Series, arrived, known_series, rules_of

DASHBOARDS = sorted((ROOT / "dashboards").glob("*.json"))
OPERATIONS = ROOT / "docs/operations.md"
# What Grafana puts in place of its variables, for the parser.
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$__interval": "15s", "$job": "skipstone", "$instance": "a"}
RATES = {"rate", "irate", "increase", "resets", "delta"}
NEEDED = ("title", "description")
SEVERITIES = {"warning", "critical"}


def main() -> int:
    known = known_series()
    faults: list[str] = []
    used: set[str] = set()
    for name in arrived():
        faults.append(f"{name} is in the catalogue now: take it out of ANNOUNCED in {Path(__file__).parent}/catalogue.py")
    count = 0
    for place, expression in expressions():
        count += 1
        faults += [f"{place}: {fault}" for fault in faults_of(expression, known, used)]
    faults += [fault for path in DASHBOARDS for fault in dashboard_faults(path)]
    faults += repeated("uid", [json.loads(path.read_text())["uid"] for path in DASHBOARDS])
    faults += alert_faults()
    # A metric that no board shows is one that operators don't know of.
    seen = {whole(name) for name in used}
    faults += [f"{name} is on no dashboard and in no rule" for name in sorted({whole(name) for name in known} - seen)]
    if faults:
        print(*faults, sep="\n", file=sys.stderr)
        return 1
    print(f"{count} expressions of {len(DASHBOARDS)} dashboards and {len(RULES)} rule files use {len(used)} series")
    if ANNOUNCED:
        print(f"of these, not in the catalogue yet: {', '.join(sorted(ANNOUNCED))}")
    return 0


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression, and where it is."""
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield f"{path.name}, {panel['title']}, {target['refId']}", target["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{path.name}, variable {variable['name']}", label_values(variable["query"]["query"])
    for path in RULES:
        for rule in rules_of(path):
            yield f"{path.name}, {rule.get('record') or rule['alert']}", rule["expr"]


def label_values(query: str) -> str:
    """The selector in label_values(SELECTOR, LABEL)."""
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    return found[1] if found else query


def faults_of(expression: str, known: dict[str, Series], used: set[str]) -> Iterator[str]:
    """What is wrong with an expression. Adds the names of its series to `used`."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    if "$" in expression:
        yield f"has a variable that is none of {', '.join(VARIABLES)}: {expression}"
        return
    try:
        tree = promql.parse(expression)
    except ValueError as error:
        yield f"does not parse: {error}: {expression}"
        return
    for selector, inside_rate in selectors(tree, False):
        # A selector may do without a name; the boards' don't.
        name = selector.name or str(selector.matchers)
        series = known.get(name)
        used.add(name)
        if series is None:
            yield f"uses {name}, which is not in the catalogue"
            continue
        for matcher in selector.matchers.matchers:
            if matcher.name not in series.labels:
                yield f"selects by {matcher.name}, which {selector.name} does not have"
        if series.rises and not inside_rate:
            yield f"uses {selector.name}, which only rises, without rate()"
    have = {label for selector, _ in selectors(tree, False) if selector.name in known
            for label in known[selector.name].labels}
    for label in sorted(grouped_by(tree) - have):
        yield f"groups by {label}, which none of its series has"


def whole(name: str) -> str:
    """The metric that a series is a part of."""
    return re.sub(r"_(bucket|sum|count)$", "", name)


def children(tree: promql.Expr) -> list[promql.Expr]:
    """The expressions inside of one."""
    names = ("lhs", "rhs", "expr", "vector_selector")
    inner = [getattr(tree, name) for name in names if getattr(tree, name, None) is not None]
    return inner + list(getattr(tree, "args", None) or ())


def selectors(tree: promql.Expr, inside_rate: bool) -> Iterator[tuple[promql.VectorSelector, bool]]:
    """Every selector, and whether a function for what rises is around it."""
    if isinstance(tree, promql.VectorSelector):
        yield tree, inside_rate
        return
    around = inside_rate or (isinstance(tree, promql.Call) and tree.func.name in RATES)
    for child in children(tree):
        yield from selectors(child, around)


def grouped_by(tree: promql.Expr) -> set[str]:
    """The labels in by (...)."""
    labels = set().union(*(grouped_by(child) for child in children(tree)))
    if isinstance(tree, promql.AggregateExpr) and tree.modifier is not None:
        labels |= set(tree.modifier.labels)
    return labels


def dashboard_faults(path: Path) -> Iterator[str]:
    """What a reader would miss in a dashboard."""
    board = json.loads(path.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    yield from (f"{path.name}: {fault}" for fault in repeated("panel id", [panel["id"] for panel in board["panels"]]))
    for panel in panels:
        missing = [name for name in NEEDED if not panel.get(name)]
        if not panel["fieldConfig"]["defaults"].get("unit"):
            missing.append("unit")
        if missing:
            yield f"{path.name}, {panel['title']}: has no {', '.join(missing)}"
        sources = {part["datasource"]["uid"] for part in (panel, *panel["targets"])}
        if sources != {"${datasource}"}:
            yield f"{path.name}, {panel['title']}: names the data source {sources}, not the board's variable"
        if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24:
            yield f"{path.name}, {panel['title']}: is wider than the page"


def alert_faults() -> Iterator[str]:
    """What whoever is called at night would miss in an alert."""
    anchors = {anchor(line) for line in OPERATIONS.read_text().splitlines() if line.startswith("#")}
    names = [rule["alert"] for path in RULES for rule in rules_of(path) if "alert" in rule]
    yield from repeated("alert", names)
    for rule in (rule for path in RULES for rule in rules_of(path) if "alert" in rule):
        name, notes = rule["alert"], rule.get("annotations", {})
        if rule.get("labels", {}).get("severity") not in SEVERITIES:
            yield f"{name}: its severity is none of {', '.join(sorted(SEVERITIES))}"
        if not notes.get("summary") or not notes.get("description"):
            yield f"{name}: has no summary or no description"
        page, _, section = notes.get("runbook_url", "").partition("#")
        if page != str(OPERATIONS.relative_to(ROOT)) or section not in anchors:
            yield f"{name}: its runbook_url {notes.get('runbook_url')!r} is no section of {OPERATIONS.name}"
    told = {section for section in anchors if section.startswith("skipstone")}
    for section in sorted(told - {name.lower() for name in names}):
        yield f"{OPERATIONS.name}: the section #{section} is about no alert"


def anchor(heading: str) -> str:
    """What a link to a heading of Markdown says."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


def repeated(what: str, values: list) -> list[str]:
    """Values that occur more than once."""
    return [f"the {what} {value} occurs twice" for value in sorted({one for one in values if values.count(one) > 1})]


if __name__ == "__main__":
    sys.exit(main())
