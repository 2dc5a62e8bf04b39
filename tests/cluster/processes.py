"""The processes of the cluster: started on free ports of loopback, watched until they are ready, ended at the end."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Callable

import yaml

from report import Unmet
from service import Service

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60
STOP_SECONDS = 10
POLL_SECONDS = 0.1

# One thread each, so that two replicas don't fight over the cores of a small machine.
REPLICA_SETTINGS = {
    "SKIPSTONE_ENGINE__THREADS": "1",
    "SKIPSTONE_SERVER__WITHDRAWAL_GRACE_SECONDS": "5",
}


def free_port() -> int:
    """A port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(url: str) -> str:
    """The page, past any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as reply:
        return reply.read().decode()


class Process:
    """A running program. Its output goes to a file."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.output = folder / f"{name}.out"
        with self.log.open("wb") as log, self.output.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=log)

    def await_ready(self, ready: Callable[[], bool]) -> None:
        """Waits until it answers, or ends it."""
        try:
            self._poll(ready)
        except BaseException:
            self.stop()
            raise

    def _poll(self, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + START_SECONDS
        while not self._answers(ready):
            if self._process.poll() is not None:
                raise Unmet(f"{self.name} ended with status {self._process.returncode}; its log: {self.log.read_text()}")
            if time.monotonic() > end:
                raise Unmet(f"{self.name} is not ready after {START_SECONDS} s; its log: {self.log.read_text()}")
            time.sleep(POLL_SECONDS)

    @staticmethod
    def _answers(ready: Callable[[], bool]) -> bool:
        try:
            return ready()
        except OSError:
            return False

    def stop(self) -> None:
        """Ends it, politely first."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Replica:
    """A replica of the service, which can end and come back at the same address."""

    def __init__(self, name: str, binary: str, model: str, folder: Path) -> None:
        self.name = name
        self.binary, self.model, self._folder = binary, model, folder
        self._starts = 0
        self.service = self._start("127.0.0.1:0", "127.0.0.1:0")
        self.address, self.metrics_address = self.service.address, self.service.metrics_address

    def _start(self, listen: str, metrics_listen: str) -> Service:
        self._starts += 1
        log = self._folder / f"{self.name}.{self._starts}.log"
        return Service(self.binary, self.model, log, listen, metrics_listen, REPLICA_SETTINGS)

    def come_back(self) -> None:
        """Starts it again where it was."""
        self.service = self._start(self.address, self.metrics_address)

    def stop(self) -> None:
        """Ends it at once."""
        self.service.kill()


class Envoy(Process):
    """The load balancer, by deploy/envoy.yaml with other addresses."""

    def __init__(self, binary: str, replicas: list[Replica], folder: Path) -> None:
        config = yaml.safe_load((ROOT / "deploy/envoy.yaml").read_text())
        self.address, self.metrics_address, self._admin = (f"127.0.0.1:{free_port()}" for _ in range(3))
        listeners = {listener["name"]: listener for listener in config["static_resources"]["listeners"]}
        clusters = {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}
        move(listeners["grpc"], self.address)
        move(listeners["metrics"], self.metrics_address)
        move(config["admin"], self._admin)
        move(endpoints_of(clusters["admin"])[0]["endpoint"], self._admin)
        addresses = {replica.name: replica.address for replica in replicas}
        endpoints = endpoints_of(clusters["skipstone"])
        keys = [endpoint["metadata"]["filter_metadata"]["envoy.lb"]["hash_key"] for endpoint in endpoints]
        if keys != list(addresses):
            raise Unmet(f"deploy/envoy.yaml names the replicas {keys}, and the cluster runs {list(addresses)}")
        for key, endpoint in zip(keys, endpoints):
            move(endpoint["endpoint"], addresses[key])
        rendered = folder / "envoy.yaml"
        rendered.write_text(yaml.safe_dump(config))
        # The access log is read while Envoy runs, so it may not be held back for ten seconds, as is
        # usual.
        command = [binary, "--config-path", str(rendered), "--disable-hot-restart", "--concurrency", "1",
                   "--log-level", "warn", "--file-flush-interval-msec", "50"]
        super().__init__("envoy", command, folder)
        self._count = len(replicas)
        self.await_ready(lambda: len(self.healthy()) == self._count)

    def healthy(self) -> set[str]:
        """Addresses of the replicas that get requests."""
        status = json.loads(fetch(f"http://{self._admin}/clusters?format=json"))
        cluster = next(one for one in status["cluster_statuses"] if one["name"] == "skipstone")
        fit = set()
        for host in cluster.get("host_statuses", ()):
            place = host["address"]["socket_address"]
            if host["health_status"] == {"eds_health_status": "HEALTHY"}:
                fit.add(f"{place['address']}:{place['port_value']}")
        return fit

    def access_log(self) -> dict[str, dict[str, Any]]:
        """The requests that ended, by their id."""
        entries = (json.loads(line) for line in self.output.read_text().splitlines(keepends=True) if line.endswith("\n"))
        return {entry["request_id"]: entry for entry in entries}


class Prometheus(Process):
    """Prometheus, by deploy/prometheus.yml with other addresses and a shorter interval."""

    def __init__(self, replicas: list[Replica], envoy: Envoy, folder: Path) -> None:
        binary = shutil.which("prometheus")
        if binary is None:
            raise Unmet("prometheus is missing; install it (Debian: apt-get install prometheus)")
        config = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())
        self.address = f"127.0.0.1:{free_port()}"
        addresses = {"envoy:9902": envoy.metrics_address, "localhost:9090": self.address}
        addresses.update({f"{replica.name}:9090": replica.metrics_address for replica in replicas})
        config["global"]["scrape_interval"] = "1s"
        config["rule_files"] = [str(ROOT / "deploy" / pattern) for pattern in config["rule_files"]]
        for job in config["scrape_configs"]:
            for targets in job["static_configs"]:
                targets["targets"] = [addresses[target] for target in targets["targets"]]
        rendered = folder / "prometheus.yml"
        rendered.write_text(yaml.safe_dump(config))
        command = [binary, f"--config.file={rendered}", f"--storage.tsdb.path={folder / 'prometheus'}",
                   f"--web.listen-address={self.address}", "--log.level=warn"]
        super().__init__("prometheus", command, folder)
        self.await_ready(lambda: "Ready" in fetch(f"http://{self.address}/-/ready"))

    def query(self, expression: str) -> dict[str, float]:
        """The value of the expression at this moment, by instance."""
        page = fetch(f"http://{self.address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        return {sample["metric"]["instance"]: float(sample["value"][1]) for sample in json.loads(page)["data"]["result"]}


def move(holder: dict[str, Any], address: str) -> None:
    """Gives whatever has an Envoy address another one."""
    host, port = address.rsplit(":", 1)
    holder["address"]["socket_address"] = {"address": host, "port_value": int(port)}


def endpoints_of(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    """The endpoints of an Envoy cluster."""
    return cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
