"""Mixed traffic for the dashboards: most requests of one kind of text, which changes twice; some plain, some wrong, some bursts."""

import itertools
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

import grpc
from skipstone.v1 import generation_pb2 as wire

from traffic import SESSIONS, Client, metadata

PROMPTS = Path(__file__).resolve().parents[2] / "benches/data/prompts.jsonl"
# The kinds of text, in the order in which they come, and the prompts that stand for each.
PHASES = {"prose": ("chat", "summarisation"), "code": ("code",), "translation": ("translation",)}

# A stream or two on each replica, as long as no burst comes.
WORKERS = 3
NEW_TOKENS, BURST_TOKENS = 96, 12
# More than the places in the batches of two replicas, so that some wait.
BURST = 22
# Early enough that its requests are over when the kind of text changes.
BURST_AFTER = 0.3
PLAIN_EVERY, SAMPLED_EVERY, UNARY_EVERY = 7, 5, 6
MISFIT_PAUSE_SECONDS = 1.5
SHORT_DEADLINE_SECONDS = 0.4
CALL_SECONDS = 60


@dataclass(frozen=True)
class Phase:
    """When a kind of text came, in seconds since the epoch."""

    name: str
    began: float
    ended: float


class Load:
    """Runs the phases, one after the other."""

    def __init__(self, client: Client, seconds_each: float) -> None:
        self._client, self._seconds = client, seconds_each
        by_category: dict[str, list[str]] = {}
        for line in PROMPTS.read_text().splitlines():
            entry = json.loads(line)
            by_category.setdefault(entry["category"], []).append(entry["prompt"])
        self._prompts = {name: [prompt for category in categories for prompt in by_category[category]]
                         for name, categories in PHASES.items()}
        self._phase = next(iter(PHASES))
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self.outcomes: Counter[str] = Counter()

    def run(self) -> list[Phase]:
        """Puts the load on, and says when which kind of text came."""
        threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(WORKERS)]
        threads.append(threading.Thread(target=self._misbehave, daemon=True))
        phases = []
        for name in PHASES:
            self._phase, began = name, time.time()
            for thread in threads:
                if not thread.is_alive():
                    thread.start()
            time.sleep(self._seconds * BURST_AFTER)
            self._burst()
            time.sleep(max(0.0, began + self._seconds - time.time()))
            phases.append(Phase(name, began, time.time()))
        self._stop.set()
        for thread in threads:
            thread.join(CALL_SECONDS)
        return phases

    def _work(self, worker: int) -> None:
        """Requests one after the other, some of them out of the ordinary."""
        choose = Random(worker)
        while not self._stop.is_set():
            number = next(self._numbers)
            spec = self._spec(choose.choice(self._prompts[self._phase]), NEW_TOKENS)
            if number % PLAIN_EVERY == 0:
                spec.speculation.mode = wire.SPECULATION_MODE_OFF
            if number % SAMPLED_EVERY == 0:
                spec.sampling.temperature, spec.sampling.seed = 0.7, number
            self._call(spec, number, streamed=number % UNARY_EVERY != 0)

    def _misbehave(self) -> None:
        """What callers do wrong, in turn: a wrong value, a deadline that is too short, a stream that is given up."""
        for number in itertools.count():
            if self._stop.wait(MISFIT_PAUSE_SECONDS):
                return
            spec = self._spec(self._prompts[self._phase][0], NEW_TOKENS)
            if number % 3 == 0:
                spec.sampling.temperature = -1.0
                self._call(spec, number)
            elif number % 3 == 1:
                spec.stop.ignore_end_of_sequence = True
                self._call(spec, number, timeout=SHORT_DEADLINE_SECONDS)
            else:
                self._give_up(spec, number)

    def _burst(self) -> None:
        """Many short requests at the same moment."""
        prompts = self._prompts[self._phase]
        threads = [threading.Thread(target=self._call, daemon=True,
                                    args=(self._spec(prompts[number % len(prompts)], BURST_TOKENS), number))
                   for number in range(BURST)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(CALL_SECONDS)

    @staticmethod
    def _spec(prompt: str, tokens: int) -> wire.GenerationSpec:
        message = wire.ChatMessage(role=wire.ROLE_USER, content=prompt)
        return wire.GenerationSpec(chat=wire.ChatInput(messages=[message]), stop=wire.StopCriteria(max_new_tokens=tokens))

    def _call(self, spec: wire.GenerationSpec, number: int, streamed: bool = True, timeout: float = CALL_SECONDS) -> None:
        options = {"timeout": timeout, "metadata": metadata(SESSIONS[number % len(SESSIONS)], f"load-{number}")}
        try:
            if streamed:
                for _ in self._client.stub.GenerateStream(wire.GenerateStreamRequest(spec=spec), **options):
                    pass
            else:
                self._client.stub.Generate(wire.GenerateRequest(spec=spec), **options)
        except grpc.RpcError as error:
            self.outcomes[error.code().name] += 1
        else:
            self.outcomes["OK"] += 1

    def _give_up(self, spec: wire.GenerationSpec, number: int) -> None:
        call = self._client.stub.GenerateStream(wire.GenerateStreamRequest(spec=spec), timeout=CALL_SECONDS,
                                                metadata=metadata(SESSIONS[number % len(SESSIONS)], f"given-up-{number}"))
        try:
            for _ in itertools.islice(call, 3):
                pass
        except grpc.RpcError as error:
            self.outcomes[error.code().name] += 1
        else:
            call.cancel()
            self.outcomes["given up"] += 1
