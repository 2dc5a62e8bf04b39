"""PASS and FAIL lines, and the expectations behind them."""

import contextlib
import time
import traceback
from typing import Callable, Iterator

import grpc


class Unmet(Exception):
    """An expectation that was not met."""


class Report:
    """Counts what held and what did not. A failed check does not stop the ones after it."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    @contextlib.contextmanager
    def check(self, name: str) -> Iterator[None]:
        """Runs the body and prints one line about it."""
        began = time.monotonic()
        try:
            yield
        except Exception as error:  # Whatever goes wrong in a check is that check's failure.
            self.failed += 1
            print(f"FAIL {name}: {describe(error)}", flush=True)
        else:
            self.passed += 1
            print(f"PASS {name} ({time.monotonic() - began:.1f} s)", flush=True)

    @contextlib.contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """An error outside of any check is a failure as well."""
        try:
            yield
        except Exception as error:
            self.failed += 1
            print(f"FAIL {name} broke off: {describe(error)}", flush=True)

    def note(self, text: str) -> None:
        """A number that is worth seeing."""
        print(f"     {text}", flush=True)


def describe(error: Exception) -> str:
    """One line on an error; the place as well, where the error is not an expectation's own."""
    if isinstance(error, Unmet):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, grpc.RpcError):
        text = f"{error.code().name}: {error.details()}"
    else:
        text = f"{type(error).__name__}: {error}"
    return f"{text} (at {place.filename}:{place.lineno})"


def expect(condition: object, message: str) -> None:
    """The condition holds."""
    if not condition:
        raise Unmet(message)


def expect_equal(found: object, wanted: object, what: str) -> None:
    """Both are the same."""
    if found != wanted:
        raise Unmet(f"{what}: found {found!r}, wanted {wanted!r}")


def expect_within(seconds: float, condition: Callable[[], bool], what: Callable[[], str]) -> None:
    """The condition comes to hold in time; polled, because the service answers no question about it."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Unmet(f"not within {seconds} s: {what()}")
        time.sleep(0.02)
