"""The service under test: its process, its metrics page and its memory."""

import os
import re
import signal
import subprocess
import threading
import urllib.request
from pathlib import Path
from types import MappingProxyType
from typing import Mapping, Optional

from metrics_page import Page
from report import Unmet

READY = re.compile(r"^skipstone ready: grpc ([^,]+)(?:, openai ([^,]+))?, metrics ([^,]+), model (.+)$")
READY_SECONDS = 120
# For a machine that is slow or busy; the default of 30 s would cut off streams there.
DRAIN_SECONDS = 120
STOP_SECONDS = DRAIN_SECONDS + 30


class Service:
    """A running service. Its log goes to a file, and its one line on standard output says where it listens."""

    def __init__(
        self,
        binary: str,
        model: str,
        log: Path,
        listen: str = "127.0.0.1:0",
        metrics_listen: str = "127.0.0.1:0",
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Starts it and waits until it is ready. `settings` are environment variables of the service."""
        self.model_file = Path(model)
        self._log = log.open("wb")
        # The caller's settings must not change what is tested.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SKIPSTONE_")}
        environment["SKIPSTONE_SERVER__DRAIN_SECONDS"] = str(DRAIN_SECONDS)
        environment.update(settings)
        command = [binary, "serve", "--model", model, "--listen", listen, "--metrics-listen", metrics_listen]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )
        try:
            self.address, self.openai_address, self.metrics_address, self.model = self._ready()
        except BaseException:
            self.kill()
            raise

    def _ready(self) -> tuple[str, Optional[str], str, str]:
        watchdog = threading.Timer(READY_SECONDS, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline().strip()
        finally:
            watchdog.cancel()
        found = READY.match(line)
        if not found:
            raise Unmet(f"the service did not become ready; its first line was {line!r}")
        return found.groups()

    def metrics(self) -> Page:
        """The metrics page of this moment."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.metrics_address}/metrics", timeout=10) as reply:
            return Page(reply.read().decode())

    def running(self) -> float:
        """Generations in the batch."""
        return self.metrics().value("skipstone_requests_running")

    def resident_bytes(self) -> int:
        """VmRSS."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise Unmet("/proc has no VmRSS line for the service")

    def terminate(self) -> None:
        """Sends SIGTERM and does not wait."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> tuple[int, str]:
        """The exit status, and what standard output held beyond the ready line."""
        rest, _ = self.process.communicate(timeout=STOP_SECONDS)
        return self.process.returncode, rest

    def kill(self) -> None:
        """Makes sure that nothing is left behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()
