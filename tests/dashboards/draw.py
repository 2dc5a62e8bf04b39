"""Draws evaluated dashboards: one page of charts each, photographed by headless Chromium."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WIDTH = 1500
# Of one unit of the dashboards' grid, and of what is above it; page/style.css knows the same
# numbers.
UNIT, HEAD, MARGIN = 33, 92, 12
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_SECONDS = 60


class NotDrawn(Exception):
    """The page did not come to its end."""


def browser() -> str | None:
    """The browser's program, if there is one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def page(board: dict[str, Any], modules: Path) -> str:
    """A page that holds everything it needs."""
    uplot = modules / "uplot/dist"
    # A text of the data may not end the script that holds it.
    data = json.dumps(board, separators=(",", ":")).replace("</", "<\\/")
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{board["title"]}</title>
<style>{(uplot / "uPlot.min.css").read_text()}</style>
<style>{(HERE / "page/style.css").read_text()}</style>
<body><header></header><main></main>
<script>{(uplot / "uPlot.iife.min.js").read_text()}</script>
<script>const BOARD = {data};</script>
<script>{(HERE / "page/formats.js").read_text()}</script>
<script>{(HERE / "page/panels.js").read_text()}</script>
<script>{(HERE / "page/page.js").read_text()}</script>
</body></html>
"""


def photograph(html: Path, picture: Path, rows: int) -> None:
    """Opens the page and keeps what it looks like."""
    program = browser()
    if program is None:
        raise NotDrawn("no browser is installed (Debian: apt-get install chromium)")
    command = [program, "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--enable-logging=stderr",
               f"--user-data-dir={html.parent / 'browser'}", f"--window-size={WIDTH},{HEAD + rows * UNIT + MARGIN}",
               f"--screenshot={picture}", html.as_uri()]
    if os.geteuid() == 0:
        # Chromium's sandbox refuses to run for root, as whom containers often run. The page is our
        # own.
        command.insert(1, "--no-sandbox")
    done = subprocess.run(command, capture_output=True, text=True, timeout=BROWSER_SECONDS, check=False)
    # Charts are drawn after the page's own script has ended, so an error may follow its last words.
    if f'"drawn: {picture.stem}"' not in done.stderr or "Uncaught" in done.stderr or not picture.exists():
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line] or done.stderr.splitlines()[-5:]
        raise NotDrawn(f"{html.name} was not drawn to its end: {' '.join(said)}")
