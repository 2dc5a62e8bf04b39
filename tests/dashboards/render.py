"""The dashboards as an operator sees them under load. scripts/render-dashboards runs it.

Starts the cluster of tests/cluster, puts a load on it, asks Prometheus every query of every panel, and draws the answers.
Fails if a query fails, or brings nothing where the load must show.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boards import BOARDS
from check_metrics import await_up
from cluster import Cluster
from draw import browser, page, photograph
from evaluate import Series, Window, answers_of
from grafana import Board
from load import Load, Phase
from processes import ROOT
from report import Report, Unmet
from run import start

JOB = "skipstone"
# So that there are two scrapes before the load, and that its last requests are scraped.
SETTLE_SECONDS = 2.5


def main() -> int:
    parser = argparse.ArgumentParser(description="Draws the dashboards under load.")
    parser.add_argument("--binary", required=True, help="the service's binary")
    parser.add_argument("--model", required=True, help="the default model's file")
    parser.add_argument("--envoy", required=True, help="Envoy's binary")
    parser.add_argument("--modules", required=True, type=Path, help="the folder node_modules with the plotting library")
    parser.add_argument("--pictures", required=True, type=Path, help="where the pictures go")
    parser.add_argument("--pages", type=Path, help="where the pages go, to be opened in a browser; otherwise they are not kept")
    parser.add_argument("--seconds", type=float, default=25.0, help="of each kind of text")
    arguments = parser.parse_args()
    if browser() is None:
        print("no browser is installed (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.ExitStack() as running:
            try:
                cluster = start(arguments, folder, report, running)
            except Unmet as error:
                print(f"the cluster did not start: {error}", file=sys.stderr)
                return 1
            drawn = [evaluated(*work, report) for work in under_load(cluster, arguments.seconds, report)]
        # The machine is quiet again; a browser takes what it gets.
        pages = arguments.pages or folder
        pages.mkdir(parents=True, exist_ok=True)
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        for board in drawn:
            html, picture = pages / f"{board['name']}.html", arguments.pictures / f"{board['name']}.png"
            with report.check(f"{board['name']}: drawn"):
                html.write_text(page(board, arguments.modules))
                photograph(html.resolve(), picture.resolve(), board["rows"])
                report.note(f"{picture}, {picture.stat().st_size // 1024} KiB")
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


def under_load(cluster: Cluster, seconds: float, report: Report) -> Iterator[tuple[Board, Window, list[Phase]]]:
    """Puts the load on, and gives the boards to be evaluated."""
    # Prometheus takes some seconds until its first scrape.
    await_up(cluster, {replica.metrics_address: 1.0 for replica in cluster.replicas})
    time.sleep(SETTLE_SECONDS)
    load = Load(cluster.client, seconds)
    phases = load.run()
    time.sleep(SETTLE_SECONDS)
    report.note(f"calls: {', '.join(f'{count} {code}' for code, count in sorted(load.outcomes.items()))}")
    instances = [replica.metrics_address for replica in cluster.replicas]
    # Up to the end of the load, so that what shows one moment shows a moment under load.
    window = Window(cluster.prometheus.address, phases[0].began, phases[-1].ended, JOB, instances)
    for board in BOARDS:
        yield board, window, phases


def evaluated(board: Board, window: Window, phases: list[Phase], report: Report) -> dict[str, Any]:
    """The board with what its queries bring."""
    file = json.loads((ROOT / f"dashboards/{board.name}.json").read_text())
    panels = []
    sources = iter(board.panels())
    for panel in file["panels"]:
        place = {"title": panel["title"], "kind": panel["type"], "place": panel["gridPos"]}
        if panel["type"] == "row":
            panels.append(place)
            continue
        source = next(sources)
        answers: list[list[Series]] = []
        excuses: list[str] = []
        with report.check(f"{board.name}: {panel['title']}"):
            answers = answers_of(panel, source, window, excuses)
        for excuse in excuses:
            report.note(f"no data: {excuse}")
        panels.append({**place, "empty": "; ".join(excuses), "colors": source.colors, "defaults": panel["fieldConfig"]["defaults"], "options": panel["options"],
                       "queries": [[{"name": series.name, "labels": series.labels, "points": series.points}
                                    for series in answer] for answer in answers],
                       "format": panel["targets"][0]["format"], "columns": columns_of(panel)})
    marks = [{"name": phase.name, "from": phase.began, "to": phase.ended} for phase in phases]
    return {"name": f"dashboard-{board.name}", "title": board.title, "from": window.began, "to": window.ended,
            "phases": marks, "panels": panels,
            "rows": max(panel["place"]["y"] + panel["place"]["h"] for panel in panels)}


def columns_of(panel: dict[str, Any]) -> dict[str, Any]:
    """How a table names and hides its columns, and their units."""
    if panel["type"] != "table":
        return {}
    organize = panel["transformations"][-1]["options"]
    units = {override["matcher"]["options"]: override["properties"][0]["value"]
             for override in panel["fieldConfig"]["overrides"]}
    return {"names": organize["renameByName"], "hidden": organize["excludeByName"], "units": units}


if __name__ == "__main__":
    sys.exit(main())
