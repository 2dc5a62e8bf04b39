"""What scraping the metrics costs: the same work, in turn with a scrape a second and without. scripts/metrics-cost runs it."""

import argparse
import http.client
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import grpc
from report import Unmet
from service import Service
from skipstone.v1 import generation_pb2 as wire
from skipstone.v1.generation_pb2_grpc import GenerationServiceStub

# The work of a period: streams side by side, and the requests of each, one after the other. Plain
# decoding to a fixed length, so that every period does exactly the same. A few seconds, so that a
# machine that gets slower does so for neighbours alike.
STREAMS, REQUESTS, NEW_TOKENS = 2, 2, 256
PROMPT = "Write a long story about a lighthouse keeper who finds a map."
# Requests that draft, before the periods: afterwards the page has all its series.
DRAFTING_REQUESTS = 4
SCRAPE_SECONDS = 1.0
CALL_SECONDS = 300
RESAMPLES = 10_000


class Scraper:
    """Reads the metrics once a second, as Prometheus does, on a connection that it keeps."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection = http.client.HTTPConnection(address, timeout=10)
        self.seconds: list[float] = []
        self.page_bytes = 0

    def during(self, work: Callable[[], None]) -> None:
        """Does the work, and scrapes until it is done."""
        done = threading.Event()
        thread = threading.Thread(target=self._run, args=(done,))
        thread.start()
        try:
            work()
        finally:
            done.set()
            thread.join()

    def _run(self, done: threading.Event) -> None:
        due = time.monotonic()
        while not done.wait(max(0.0, due - time.monotonic())):
            due += SCRAPE_SECONDS
            began = time.monotonic()
            self._connection.request("GET", "/metrics")
            page = self._connection.getresponse().read()
            self.seconds.append(time.monotonic() - began)
            self.page_bytes = len(page)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures what scraping the metrics costs.")
    parser.add_argument("--binary", required=True, help="the service's binary")
    parser.add_argument("--model", required=True, help="the model's file")
    parser.add_argument("--pairs", type=int, default=40, help="periods of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        try:
            service = Service(arguments.binary, arguments.model, Path(name) / "service.log")
        except Unmet as error:
            print(error, file=sys.stderr)
            return 1
        try:
            measure(service, arguments.pairs)
        finally:
            service.kill()
    return 0


def measure(service: Service, pairs: int) -> None:
    """Runs the periods, and prints what they came to."""
    stub = GenerationServiceStub(grpc.insecure_channel(service.address))
    scraper = Scraper(service.metrics_address)
    for _ in range(DRAFTING_REQUESTS):
        generate(stub, wire.SPECULATION_MODE_ADAPTIVE)
    period(stub)
    quiet, scraped = [], []
    for pair in range(pairs):
        # Each order as often as the other, so that a machine that gets slower or faster favours
        # neither.
        for with_scrapes in ((False, True) if pair % 2 == 0 else (True, False)):
            if with_scrapes:
                scraped.append(rate(lambda: scraper.during(lambda: period(stub))))
            else:
                quiet.append(rate(lambda: period(stub)))
        print(f"pair {pair + 1}: {quiet[-1]:.1f} tokens/s without, {scraped[-1]:.1f} with scrapes", flush=True)
    ratios = [with_scrapes / without for with_scrapes, without in zip(scraped, quiet)]
    low, high = interval(ratios)
    print(f"without scrapes {statistics.median(quiet):.1f} tokens/s, with one a second {statistics.median(scraped):.1f} (medians of {pairs})")
    print(f"with / without {statistics.median(ratios):.4f} (95 %: {low:.4f} to {high:.4f})")
    print(f"{len(scraper.seconds)} scrapes of {scraper.page_bytes} bytes took {1e3 * statistics.median(scraper.seconds):.1f} ms each (median)")


def period(stub: GenerationServiceStub) -> None:
    """The work of a period."""
    def stream(_: int) -> None:
        for _ in range(REQUESTS):
            generate(stub, wire.SPECULATION_MODE_OFF)

    with ThreadPoolExecutor(STREAMS) as workers:
        list(workers.map(stream, range(STREAMS)))


def generate(stub: GenerationServiceStub, mode: int) -> None:
    """One stream, read to its end."""
    spec = wire.GenerationSpec(
        chat=wire.ChatInput(messages=[wire.ChatMessage(role=wire.ROLE_USER, content=PROMPT)]),
        stop=wire.StopCriteria(max_new_tokens=NEW_TOKENS, ignore_end_of_sequence=True),
        speculation=wire.SpeculationParams(mode=mode),
    )
    for _ in stub.GenerateStream(wire.GenerateStreamRequest(spec=spec), timeout=CALL_SECONDS):
        pass


def rate(work: Callable[[], None]) -> float:
    """Tokens a second of a period's work."""
    began = time.monotonic()
    work()
    return STREAMS * REQUESTS * NEW_TOKENS / (time.monotonic() - began)


def interval(ratios: list[float]) -> tuple[float, float]:
    """The median's 95 % interval by the bootstrap."""
    random = Random(1)
    medians = sorted(statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return medians[round(0.025 * RESAMPLES)], medians[round(0.975 * RESAMPLES) - 1]


if __name__ == "__main__":
    sys.exit(main())
