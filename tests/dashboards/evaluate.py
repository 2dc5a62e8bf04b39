"""Asks Prometheus every query of a dashboard, as Grafana would."""

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from catalogue import ANNOUNCED
from grafana import Panel
from report import Unmet

# Of four scrapes at least, as Grafana chooses it; more, because a short load has few requests in a
# second.
RATE_SECONDS = 10
STEP_SECONDS = 1
QUERY_SECONDS = 30


@dataclass(frozen=True)
class Window:
    """What a person would have chosen at the top of the dashboard."""

    prometheus: str
    began: float
    ended: float
    job: str
    instances: list[str]

    def fill_in(self, expression: str) -> str:
        """The expression with the values of Grafana's variables."""
        # Grafana escapes what it puts into a regular expression, and the backslash once more for
        # the string.
        instances = "|".join(re.escape(instance).replace("\\", "\\\\") for instance in self.instances)
        values = {"$__rate_interval": f"{RATE_SECONDS}s", "$__range": f"{math.ceil(self.ended - self.began)}s",
                  "$job": self.job, "$instance": f"({instances})"}
        for variable, value in values.items():
            expression = expression.replace(variable, value)
        return expression


@dataclass(frozen=True)
class Series:
    """One line of a panel: moments and values, without those that are not numbers."""

    labels: dict[str, str]
    name: str
    points: list[tuple[float, float]]


class QueryFailed(Exception):
    """Prometheus refused a query."""


def answers_of(panel: dict[str, Any], source: Panel, window: Window, excuses: list[str]) -> list[list[Series]]:
    """What each query of a panel brings. None may fail, and each must bring something or have an excuse."""
    if panel["title"] != source.title:
        raise Unmet("the file is not what its source says; run scripts/dashboards")
    answers = []
    for target in panel["targets"]:
        try:
            answer = ask(window, target)
        except QueryFailed as error:
            raise Unmet(f"Prometheus says {error} to {target['expr']}") from error
        answers.append(answer)
        if answer:
            continue
        coming = sorted(name for name in ANNOUNCED if name in target["expr"])
        if coming:
            excuses.append(f"the service does not export {', '.join(coming)} yet")
        elif source.may_be_empty:
            excuses.append(source.may_be_empty)
        else:
            raise Unmet(f"no data from {target['expr']}")
    return answers


def ask(window: Window, target: dict[str, Any]) -> list[Series]:
    """What a query of a panel brings. Series without any number are left out, as there is nothing to draw."""
    parameters = {"query": window.fill_in(target["expr"])}
    if target["instant"]:
        parameters["time"] = f"{window.ended:.3f}"
    else:
        parameters.update(start=f"{window.began:.3f}", end=f"{window.ended:.3f}", step=str(STEP_SECONDS))
    kind = "query" if target["instant"] else "query_range"
    found = []
    for result in fetch(f"http://{window.prometheus}/api/v1/{kind}?{urllib.parse.urlencode(parameters)}"):
        samples = [result["value"]] if target["instant"] else result["values"]
        points = [(moment, float(value)) for moment, value in samples if math.isfinite(float(value))]
        labels = {name: value for name, value in result["metric"].items() if name != "__name__"}
        if points:
            found.append(Series(labels, legend(target["legendFormat"], labels), points))
    return found


def legend(template: str, labels: dict[str, str]) -> str:
    """The name of a series: {{label}} stands for the label's value."""
    if template == "__auto":
        return ", ".join(labels.values())
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), template)


def fetch(url: str) -> list[dict[str, Any]]:
    """The series of an answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=QUERY_SECONDS) as reply:
            answer = json.load(reply)
    except urllib.error.HTTPError as error:
        raise QueryFailed(json.load(error).get("error", str(error))) from error
    return answer["data"]["result"]
