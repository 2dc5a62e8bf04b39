"""Checks that what kustomize makes of deploy/kubernetes/monitored has the rules and dashboards of this repository, all of them.

Usage: monitored.py RENDERED FOLDER     FOLDER gets the rendered rules, for promtool
"""

import json
import sys
from pathlib import Path

import yaml

RULES = Path("deploy/prometheus/rules")
DASHBOARDS = Path("dashboards")
# By this label Grafana's sidecar finds dashboards.
LABEL = ("grafana_dashboard", "1")
# `kubectl apply` keeps what it applied as JSON in an annotation; all annotations of a resource
# together have this many bytes.
ANNOTATION_BYTES = 256 * 1024


def main() -> None:
    rendered, folder = Path(sys.argv[1]), Path(sys.argv[2])
    resources = [one for one in yaml.safe_load_all(rendered.read_text()) if one]
    rules = {one["metadata"]["name"].removeprefix("skipstone-"): one["spec"]
             for one in resources if one["kind"] == "PrometheusRule"}
    boards = [one for one in resources if one["kind"] == "ConfigMap" and LABEL in one["metadata"]["labels"].items()]
    faults = differences(f"{RULES}", rules, {path.stem: yaml.safe_load(path.read_text()) for path in RULES.glob("*.yaml")},
                         "run scripts/kubernetes-rules")
    faults += differences(f"{DASHBOARDS}", {name: text for one in boards for name, text in one["data"].items()},
                          {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")},
                          f"name them in {DASHBOARDS}/kustomization.yaml")
    faults += [f"{one['metadata']['name']} is too long for kubectl apply" for one in boards
               if len(json.dumps(one)) > ANNOTATION_BYTES]
    if faults:
        sys.exit("\n".join(faults))
    for name, spec in rules.items():
        (folder / f"{name}.rules.yaml").write_text(yaml.safe_dump(spec))
    print(f"{rendered.name}: {len(rules)} files of rules, {len(boards)} dashboards")


def differences(what: str, found: dict[str, object], wanted: dict[str, object], remedy: str) -> list[str]:
    """What is not as it is in the repository."""
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    return [f"not as in {what}: {', '.join(names)}; {remedy}"] if names else []


if __name__ == "__main__":
    main()
