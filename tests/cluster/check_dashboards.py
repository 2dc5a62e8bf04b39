"""What Grafana would show: under a short load, every query of every panel brings something."""

import json
import time

from boards import BOARDS
from cluster import Cluster
from evaluate import Window, answers_of
from grafana import Board
from load import Load
from processes import ROOT

# Three kinds of text take so long each.
PHASE_SECONDS = 6.0
# The last requests are scraped by then.
SETTLE_SECONDS = 2.5


def run(cluster: Cluster) -> None:
    phases = Load(cluster.client, PHASE_SECONDS).run()
    time.sleep(SETTLE_SECONDS)
    instances = [replica.metrics_address for replica in cluster.replicas]
    window = Window(cluster.prometheus.address, phases[0].began, phases[-1].ended, "skipstone", instances)
    for board in BOARDS:
        with cluster.report.check(f"dashboards: every query of {board.title} brings data"):
            ask_all(cluster, board, window)


def ask_all(cluster: Cluster, board: Board, window: Window) -> None:
    """Fails at the first query that fails, or brings nothing where the load must show."""
    file = json.loads((ROOT / f"dashboards/{board.name}.json").read_text())
    panels = [panel for panel in file["panels"] if panel["type"] != "row"]
    count, excuses = 0, []
    for panel, source in zip(panels, board.panels(), strict=True):
        count += len(answers_of(panel, source, window, excuses))
    cluster.report.note(f"{count} queries of {len(panels)} panels"
                        + "".join(f"; no data: {excuse}" for excuse in excuses))
