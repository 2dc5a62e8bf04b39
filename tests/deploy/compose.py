"""Checks deploy/compose.yaml by the Compose specification, and that the files it mounts exist.

The variables that have no default get a value, as whoever starts it must give them one.
"""

import json
import re
import sys
from pathlib import Path

import yaml
from compose_spec import PyCompose

FILE = Path("deploy/compose.yaml")
# ${NAME}, ${NAME:-default} and ${NAME:?message}
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def main() -> None:
    text = VARIABLE.sub(lambda found: found[3] if found[2] == "-" else "/given", FILE.read_text())
    tree = yaml.safe_load(text)
    try:
        # By way of JSON, because the YAML reader has resolved the merges and this one has not.
        PyCompose.from_json(json.dumps(tree)).validate()
    except ValueError as error:
        sys.exit(f"{FILE}: {error}")
    missing = [source for source in mounted(tree) if not (FILE.parent / source).exists()]
    if missing:
        sys.exit(f"{FILE} mounts what is not there: {', '.join(missing)}")
    print(f"{FILE}: {len(tree['services'])} services")


def mounted(tree: dict) -> list[str]:
    """The files and folders of the checkout that services mount."""
    short = [volume for service in tree["services"].values() for volume in service.get("volumes", ())
             if isinstance(volume, str)]
    return [volume.split(":")[0] for volume in short if volume.startswith(".")]


if __name__ == "__main__":
    main()
