"""A strict reader of the Prometheus text format, written from its specification."""

import re
from collections import defaultdict

from report import expect, expect_equal

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
COMMENT = re.compile(rf"# (HELP|TYPE) ({NAME}) (.+)")
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}

Labels = tuple[tuple[str, str], ...]


class Page:
    """All samples of a page. Reading refuses any line that the format does not allow."""

    def __init__(self, text: str) -> None:
        self.kinds: dict[str, str] = {}
        self.helps: dict[str, str] = {}
        self.samples: dict[tuple[str, Labels], float] = {}
        self.lines = text.split("\n")
        expect_equal(self.lines[-1], "", "the end of the last line of the metrics page")
        for line in self.lines:
            if line.startswith("#"):
                self._comment(line)
            elif line:
                self._sample(line)

    def _comment(self, line: str) -> None:
        found = COMMENT.fullmatch(line)
        expect(found, f"a comment of the metrics page does not parse: {line!r}")
        table = self.helps if found.group(1) == "HELP" else self.kinds
        expect(found.group(2) not in table, f"{found.group(1)} of {found.group(2)} appears twice")
        table[found.group(2)] = found.group(3)

    def _sample(self, line: str) -> None:
        found = SAMPLE.fullmatch(line)
        expect(found, f"a line of the metrics page does not parse: {line!r}")
        inside = found.group(2) or ""
        labels = tuple(sorted(LABEL.findall(inside)))
        expect_equal("".join(match.group(0) for match in LABEL.finditer(inside)), inside, f"labels of {line!r}")
        key = (found.group(1), labels)
        expect(key not in self.samples, f"a sample appears twice: {line!r}")
        self.samples[key] = float(found.group(3))

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that carry these labels; 0 if there is none yet."""
        wanted = set(labels.items())
        return sum(value for (found, with_labels), value in self.samples.items()
                   if found == name and wanted <= set(with_labels))

    def check(self) -> None:
        """Every sample belongs to a described metric, and every histogram adds up."""
        families = {name + suffix: name for name, kind in self.kinds.items() for suffix in SUFFIXES.get(kind, ())}
        for name, labels in self.samples:
            expect(name in families, f"{name} has no TYPE, or not a kind that fits its name")
            expect(families[name] in self.helps, f"{families[name]} has no HELP")
            expect(name.startswith("skipstone_"), f"{name} lacks the prefix skipstone_")
            counter = self.kinds[families[name]] == "counter"
            expect_equal(name.endswith("_total"), counter, f"whether {name} ends in _total")
        for name, kind in self.kinds.items():
            if kind == "histogram":
                self._check_histogram(name)

    def _check_histogram(self, name: str) -> None:
        series: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
        for (found, labels), value in self.samples.items():
            if found == name + "_bucket":
                bounds = dict(labels)
                bound = float(bounds.pop("le"))
                series[tuple(bounds.items())].append((bound, value))
        for labels, buckets in series.items():
            buckets.sort()
            counts = [count for _, count in buckets]
            expect_equal(counts, sorted(counts), f"cumulative buckets of {name}{dict(labels)}")
            expect_equal(buckets[-1][0], float("inf"), f"last bucket of {name}{dict(labels)}")
            expect_equal(counts[-1], self.samples.get((name + "_count", labels)), f"count of {name}{dict(labels)}")
