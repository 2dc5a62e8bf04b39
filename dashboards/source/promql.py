"""The shapes that the boards' expressions have in common."""

# What the variables of a board select.
SELECTED = 'job=~"$job",instance=~"$instance"'
PREFIX = "skipstone_"


def value(metric: str, *matchers: str) -> str:
    """The metric of the selected replicas."""
    return f"{PREFIX}{metric}{{{','.join((SELECTED, *matchers))}}}"


def rate(metric: str, *matchers: str, over: str = "$__rate_interval") -> str:
    """How fast each series of a counter rises, a second."""
    return f"rate({value(metric, *matchers)}[{over}])"


def total(metric: str, *matchers: str, by: str = "", over: str = "$__rate_interval") -> str:
    """The rates, added up."""
    return f"sum{grouping(by)}({rate(metric, *matchers, over=over)})"


def share(part: str, whole: str) -> str:
    """A part of a whole, where there is a whole."""
    return f"{part} / ({whole} > 0)"


def share_of_all(part: str, whole: str) -> str:
    """Several parts of one whole."""
    return f"{part} / on () group_left () ({whole} > 0)"


def mean(metric: str, by: str = "", over: str = "$__rate_interval") -> str:
    """The mean of a histogram's samples."""
    return share(total(f"{metric}_sum", by=by, over=over), total(f"{metric}_count", by=by, over=over))


def quantile(level: float, metric: str, by: str = "", over: str = "$__rate_interval") -> str:
    """A quantile of a histogram's samples."""
    buckets = total(f"{metric}_bucket", by=", ".join(filter(None, ("le", by))), over=over)
    return f"histogram_quantile({level}, {buckets})"


def grouping(by: str) -> str:
    """The labels that a sum keeps."""
    return f" by ({by}) " if by else ""


def named(part: str, label: str, name: str) -> str:
    """Gives a series without the label a value of it, so that series of several metrics make one family."""
    return f'label_replace({part}, "{label}", "{name}", "", "")'
