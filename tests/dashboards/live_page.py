"""Runs promtool over the metrics page of a running service, and compares the page with the catalogue."""

import argparse
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from catalogue import ANNOUNCED, ROOT, catalogue
from report import Unmet
from service import Service

EXAMPLE = ROOT / "examples/python/stream.py"


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks the metrics page of a running service.")
    parser.add_argument("--binary", required=True, help="the service's binary")
    parser.add_argument("--model", required=True, help="a model file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            service = Service(arguments.binary, arguments.model, Path(folder) / "service.log")
        except Unmet as error:
            print(error, file=sys.stderr)
            return 1
        try:
            subprocess.run([sys.executable, EXAMPLE, "--address", service.address, "--max-new-tokens", "48", "Count to ten."],
                           check=True, stdout=subprocess.DEVNULL)
            text = page(service.metrics_address)
        finally:
            service.kill()
    # What it says about names, units, types and descriptions; it fails for each fault.
    status = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, check=False).returncode
    exported = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE ")}
    known = {name: kind.lower() for name, (kind, _) in {**ANNOUNCED, **catalogue()}.items()}
    wrong = sorted(name for name, kind in exported.items() if known.get(name) != kind)
    if wrong:
        print(f"on the page, and not in the catalogue or of another kind there: {', '.join(wrong)}", file=sys.stderr)
        status = 1
    print(f"{len(exported)} metrics on the page; promtool {'objects' if status else 'has no objection'}")
    return status


def page(address: str) -> str:
    """The metrics page."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/metrics", timeout=10) as reply:
        return reply.read().decode()


if __name__ == "__main__":
    sys.exit(main())
