"""Checks that .dockerignore lets through what the build reads: the manifest's files and all that the sources include."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

INCLUDE = re.compile(r'include_(?:str|bytes)!\(\s*"([^"]+)"')


def main() -> None:
    allowed = [Path(line[1:]) for line in Path(".dockerignore").read_text().splitlines() if line.startswith("!")]
    wanted = {Path("Cargo.toml"), Path("Cargo.lock"), Path("build.rs"), Path("proto"), *targets()}
    for source in tracked("src") + tracked("crates"):
        if source.suffix == ".rs":
            wanted |= {(source.parent / name).resolve().relative_to(Path.cwd())
                       for name in INCLUDE.findall(source.read_text())}
    kept_out = sorted(str(path) for path in wanted
                      if not any(path == one or one in path.parents for one in allowed))
    if kept_out:
        sys.exit(f".dockerignore keeps out what the build reads: {', '.join(kept_out)}; add lines that begin with !")
    print(f".dockerignore: lets through {len(wanted)} files and folders that the build reads")


def targets() -> set[Path]:
    """Files of targets that Cargo.toml names; Cargo refuses a manifest whose named targets have no file."""
    manifest = tomllib.loads(Path("Cargo.toml").read_text())
    found = {Path(bench.get("path", f"benches/{bench['name']}.rs")) for bench in manifest.get("bench", ())}
    found |= {Path(example.get("path", f"examples/{example['name']}.rs")) for example in manifest.get("example", ())}
    return found | {Path("src"), Path("crates")}


def tracked(folder: str) -> list[Path]:
    """The files that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z", folder], capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name]


if __name__ == "__main__":
    main()
