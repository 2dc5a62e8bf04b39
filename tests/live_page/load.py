"""Streams for the live page to show: several ways to draft, kinds of text that differ in what pays."""

import itertools
import json
import threading
from pathlib import Path

import grpc
from skipstone.v1 import generation_pb2 as wire
from skipstone.v1 import generation_pb2_grpc as rpc

PROMPTS = Path(__file__).resolve().parents[2] / "benches/data/prompts.jsonl"
CALL_SECONDS = 120
# A stream for each, one request after the other: its name, what it drafts by, the kind of text, its
# length, and a pause.
WORKERS = (
    ("translator", wire.SPECULATION_MODE_ADAPTIVE, "translation", 256, 0.2),
    ("digest", wire.SPECULATION_MODE_ADAPTIVE, "summarisation", 192, 0.4),
    ("layers", wire.SPECULATION_MODE_STATIC, "code", 48, 2.5),
    ("plain", wire.SPECULATION_MODE_OFF, "maths", 64, 3.0),
)
# What the static stream skips: layers whose attention SmolLM2 misses little, so that some drafts
# are right.
SKIPPED = wire.SkipSet(attention_layers=(9, 10, 12, 15, 17, 20), mlp_layers=(10, 11, 15))


class Load:
    """Runs until it is stopped."""

    def __init__(self, address: str) -> None:
        self._stub = rpc.GenerationServiceStub(grpc.insecure_channel(address))
        self._stop = threading.Event()
        self.failed = 0
        entries = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
        self._threads = [
            threading.Thread(target=self._work, daemon=True, args=(name, mode, tokens, pause, [
                entry["prompt"] for entry in entries if entry["category"] == category]))
            for name, mode, category, tokens, pause in WORKERS
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS)

    def _work(self, name: str, mode: int, tokens: int, pause: float, prompts: list[str]) -> None:
        for turn, prompt in enumerate(itertools.cycle(prompts)):
            if self._stop.wait(pause):
                return
            params = wire.SpeculationParams(mode=mode)
            if mode == wire.SPECULATION_MODE_STATIC:
                params.skip_set.CopyFrom(SKIPPED)
            chat = wire.ChatInput(messages=[wire.ChatMessage(role=wire.ROLE_USER, content=prompt)])
            stop = wire.StopCriteria(max_new_tokens=tokens, ignore_end_of_sequence=True)
            spec = wire.GenerationSpec(chat=chat, stop=stop, speculation=params)
            try:
                for _ in self._stub.GenerateStream(wire.GenerateStreamRequest(spec=spec), timeout=CALL_SECONDS,
                                                   metadata=(("x-request-id", f"{name}-{turn + 1}"),)):
                    if self._stop.is_set():
                        break
            except grpc.RpcError:
                self.failed += 1
