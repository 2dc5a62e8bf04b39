"""Writes dashboards/*.json, or checks with --check that they are what it would write. scripts/dashboards runs it."""

import json
import sys
from pathlib import Path

from boards import BOARDS

FOLDER = Path(__file__).resolve().parents[1]


def main() -> int:
    files = {FOLDER / f"{board.name}.json": json.dumps(board.json(), indent=2, ensure_ascii=False) + "\n"
             for board in BOARDS}
    if sys.argv[1:] == ["--check"]:
        stale = sorted(path.name for path in FOLDER.glob("*.json") if path not in files)
        stale += [path.name for path, text in files.items() if not path.exists() or path.read_text() != text]
        if stale:
            print(f"not what their source says: {', '.join(stale)}; run scripts/dashboards", file=sys.stderr)
            return 1
        print(f"dashboards: {len(files)} files are what their source says")
        return 0
    if sys.argv[1:]:
        print("usage: scripts/dashboards [--check]", file=sys.stderr)
        return 2
    for path, text in files.items():
        path.write_text(text)
        print(f"dashboards/{path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
