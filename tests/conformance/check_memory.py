"""Resident memory, once the model is loaded and its batch was full for a while."""

import sys

from client import Context
from report import expect

# Beside the model file, whose pages count as well.
ALLOWED_BESIDE_MODEL = 150_000_000


def run(context: Context) -> None:
    if not sys.platform.startswith("linux"):
        context.report.note("resident memory is not checked: it is read from /proc, which only Linux has")
        return
    with context.report.check("the resident memory is the model file and at most 150 MB"):
        resident, file = context.service.resident_bytes(), context.service.model_file.stat().st_size
        found = f"{resident / 1e6:.0f} MB resident, model file {file / 1e6:.0f} MB"
        context.report.note(found)
        expect(resident <= file + ALLOWED_BESIDE_MODEL, found)
