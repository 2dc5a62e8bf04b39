"""The live page of a replica with streams running, looked at by a browser. scripts/live-page runs it."""

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import grpc
from draw import browser
from load import Load
from report import Report, Unmet, expect_equal
from service import Service
from skipstone.v1 import control_pb2 as wire
from skipstone.v1.control_pb2_grpc import ControlServiceStub

HERE = Path(__file__).resolve().parent
# Chromium starts slowly on a machine that is busy with a model.
LOOK_SECONDS = 300
TOKEN = "a token for the live page"


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks the live page, or takes its picture.")
    parser.add_argument("--binary", required=True, help="the service's binary")
    parser.add_argument("--model", required=True, help="the default model's file")
    parser.add_argument("--modules", required=True, help="the folder node_modules with what drives the browser")
    parser.add_argument("--pictures", type=Path, help="where the pictures of all views go; otherwise they are not kept")
    parser.add_argument("--picture", type=Path, help="takes this picture, of half a minute, instead of the checks")
    arguments = parser.parse_args()
    program = browser()
    if program is None:
        print("no browser is installed (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    report = Report()
    base = {"modules": arguments.modules, "browser": program}
    for folder in filter(None, (arguments.pictures, arguments.picture and arguments.picture.parent)):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            service = Service(arguments.binary, arguments.model, folder / "service.log")
        except Unmet as error:
            print(error, file=sys.stderr)
            return 1
        try:
            views = {"address": service.metrics_address, "layers": layers(service.metrics_address)}
            if arguments.pictures:
                views["pictures"] = str(arguments.pictures.resolve())
            if arguments.picture:
                views["picture"] = str(arguments.picture.resolve())
            with Load(service.address) as load:
                look({**base, **views}, report)
            with report.check("the streams behind the page"):
                if load.failed:
                    raise Unmet(f"{load.failed} of them failed")
        finally:
            service.kill()
        if not arguments.picture:
            check_token(arguments, base, folder, report)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


def check_token(arguments: argparse.Namespace, base: dict[str, object], folder: Path, report: Report) -> None:
    """A replica that asks for a token."""
    file = folder / "token"
    file.write_text(TOKEN)
    service = Service(arguments.binary, arguments.model, folder / "guarded.log",
                      settings={"SKIPSTONE_CONTROL__TOKEN_FILE": str(file)})
    try:
        look({**base, "address": service.metrics_address, "token": TOKEN}, report)
        control = ControlServiceStub(grpc.insecure_channel(service.metrics_address))
        with report.check("strangers don't drain"):
            refused(control)
        with report.check("drain by the control service"):
            control.Drain(wire.DrainRequest(), metadata=(("authorization", f"Bearer {TOKEN}"),), timeout=LOOK_SECONDS)
            expect_equal(service.wait()[0], 0, "exit status")
    finally:
        service.kill()


def refused(control: ControlServiceStub) -> None:
    """Fails unless a call without the token is refused."""
    try:
        control.Drain(wire.DrainRequest(), timeout=LOOK_SECONDS)
    except grpc.RpcError as error:
        expect_equal(error.code(), grpc.StatusCode.UNAUTHENTICATED, "code")
    else:
        raise Unmet("it drained without a token")


def look(options: dict[str, object], report: Report) -> None:
    """Sends the browser, and reports what it found."""
    done = subprocess.run(["node", str(HERE / "look.mjs"), json.dumps(options)], capture_output=True, text=True,
                          timeout=LOOK_SECONDS, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    with report.check("the browser"):
        if done.returncode != 0 or not lines:
            raise Unmet(done.stderr.strip() or "it found nothing")
    for line in lines:
        with report.check(f"live page: {line['name']}"):
            if line["fault"]:
                raise Unmet(line["fault"])


def layers(address: str) -> int:
    """Layers of the model, as the page's data has them."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/api/server", timeout=10) as reply:
        return json.loads(reply.read())["model"]["layers"]


if __name__ == "__main__":
    sys.exit(main())
