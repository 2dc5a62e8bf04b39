"""Panels, rows and boards, and the JSON that Grafana 11 and later read from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterator

# Grafana 11.0 wrote this version; later ones migrate it when they load it.
SCHEMA_VERSION = 39
COLUMNS = 24
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
TAG = "skipstone"

# How tables name labels.
LABEL_HEADINGS = {"instance": "Replica", "model": "Model", "version": "Version", "job": "Job", "alertname": "Alert",
                  "alertstate": "State", "severity": "Severity"}

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE = "green", "yellow", "orange", "red", "blue", "purple"


@dataclass(frozen=True)
class Query:
    """One expression of a panel, and the name of each series it gives."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel. `kind` is Grafana's name of its type."""

    title: str
    # A sentence or two for whoever hovers over the title: what it shows, and which way is good.
    description: str
    queries: tuple[Query, ...]
    unit: str
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    decimals: int | None = None
    minimum: float | None = 0
    maximum: float | None = None
    stacked: bool = False
    # Where the colour changes, ascending. Time series draw the limits as dashed lines.
    thresholds: tuple[tuple[float, str], ...] = ()
    # Whether the colour below the first threshold is the bad one.
    low_is_bad: bool = False
    # Why a healthy service may have nothing to show here; empty if it always has.
    may_be_empty: str = ""
    # Series that have the same colour wherever they are.
    colors: dict[str, str] = field(default_factory=dict)
    # For tables: the heading and unit of the column of each query; a query without a heading adds
    # its labels only.
    columns: tuple[tuple[str, str], ...] = ()
    # For heat maps: what the vertical axis counts.
    axis: str = ""


@dataclass(frozen=True)
class Row:
    """Panels under a heading, laid out from left to right."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """A dashboard. Its file has the name of its last part of the uid."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    uid: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "uid", f"{TAG}-{self.name}")

    def panels(self) -> Iterator[Panel]:
        """All panels, in reading order."""
        for row in self.rows:
            yield from row.panels

    def json(self) -> dict[str, Any]:
        """What Grafana loads."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "refresh": "10s",
            "annotations": {"list": []},
            "links": [board_links()],
            "templating": {"list": variables()},
            "panels": list(laid_out(self.rows)),
        }


def board_links() -> dict[str, Any]:
    """The way to the other boards, with the same variables and time."""
    return {"type": "dashboards", "title": "Skipstone", "tags": [TAG], "asDropdown": False, "includeVars": True,
            "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": ""}


def variables() -> list[dict[str, Any]]:
    """The data source, and which replicas."""
    source = {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus",
              "current": {"text": "Prometheus", "value": "prometheus"}, "hide": 0, "includeAll": False,
              "multi": False, "options": [], "refresh": 1, "regex": "", "skipUrlSync": False}
    return [source, label_variable("job", "Job", ""), label_variable("instance", "Replica", '{job=~"$job"}')]


def label_variable(name: str, label: str, selector: str) -> dict[str, Any]:
    """A choice among the values of a label."""
    query = f"label_values(skipstone_requests_running{selector}, {name})"
    return {"type": "query", "name": name, "label": label, "datasource": DATA_SOURCE,
            "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
            "current": {"text": ["All"], "value": ["$__all"]}, "includeAll": True, "multi": True,
            "hide": 0, "options": [], "refresh": 2, "regex": "", "skipUrlSync": False, "sort": 1}


def laid_out(rows: tuple[Row, ...]) -> Iterator[dict[str, Any]]:
    """The rows' headings and panels with their places and numbers."""
    number, top = 1, 0
    for row in rows:
        yield {"type": "row", "id": number, "title": row.title, "collapsed": False, "panels": [],
               "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top}}
        number, top, left, tallest = number + 1, top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            yield panel_json(panel, number, {"h": panel.height, "w": panel.width, "x": left, "y": top})
            number, left, tallest = number + 1, left + panel.width, max(tallest, panel.height)
        top += tallest


def panel_json(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    """One panel."""
    result = {
        "type": panel.kind,
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "gridPos": place,
        "datasource": DATA_SOURCE,
        "targets": [target(panel, query, index) for index, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": field_defaults(panel), "overrides": overrides(panel)},
        "options": OPTIONS[panel.kind](panel),
    }
    if panel.kind == "table":
        result["transformations"] = table_transformations(panel)
    return result


def target(panel: Panel, query: Query, index: int) -> dict[str, Any]:
    """One query. What shows a single moment asks for a single moment."""
    instant = panel.kind in ("stat", "bargauge", "table")
    shape = {"table": "table", "heatmap": "heatmap" if panel.axis == "le" else "time_series"}
    return {"refId": chr(ord("A") + index), "datasource": DATA_SOURCE, "editorMode": "code",
            "expr": query.expression, "legendFormat": query.legend or "__auto", "instant": instant,
            "range": not instant, "format": shape.get(panel.kind, "time_series")}


def field_defaults(panel: Panel) -> dict[str, Any]:
    """Unit, limits and colours of the values."""
    below = RED if panel.low_is_bad else GREEN
    steps: list[dict[str, Any]] = [{"color": below if panel.thresholds else BLUE, "value": None}]
    steps += [{"color": color, "value": limit} for limit, color in panel.thresholds]
    by_limits = panel.kind in ("stat", "bargauge")
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if by_limits else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": [{"type": "special", "options": {"match": "nan", "result": {"text": "no traffic", "index": 0}}}],
    }
    for key, value in (("min", panel.minimum), ("max", panel.maximum), ("decimals", panel.decimals)):
        if value is not None and panel.kind != "table":
            defaults[key] = value
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1 if panel.stacked else 2,
            "fillOpacity": 60 if panel.stacked else 0, "showPoints": "never", "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.thresholds else "off"},
        }
    return defaults


def overrides(panel: Panel) -> list[dict[str, Any]]:
    """The units of a table's columns, and the colours of series by name."""
    units = [(name, {"id": "unit", "value": unit}) for name, unit in panel.columns if unit]
    colors = [(name, {"id": "color", "value": {"mode": "fixed", "fixedColor": color}})
              for name, color in panel.colors.items()]
    return [{"matcher": {"id": "byName", "options": name}, "properties": [change]} for name, change in (*units, *colors)]


def timeseries_options(_: Panel) -> dict[str, Any]:
    return {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"}}


def stat_options(_: Panel) -> dict[str, Any]:
    return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value",
            "graphMode": "none", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
            "wideLayout": True, "showPercentChange": False}


def bargauge_options(_: Panel) -> dict[str, Any]:
    return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "displayMode": "basic",
            "orientation": "horizontal", "valueMode": "color", "namePlacement": "left", "showUnfilled": True,
            "sizing": "auto", "minVizWidth": 8, "minVizHeight": 10, "maxVizHeight": 40}


def heatmap_options(panel: Panel) -> dict[str, Any]:
    of_buckets = panel.axis == "le"
    return {"calculate": False, "cellGap": 1, "cellValues": {"unit": panel.unit},
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 32, "exponent": 0.5, "fill": "dark-orange",
                      "reverse": False, **({} if of_buckets else {"min": 0, "max": 1})},
            "exemplars": {"color": "rgba(255,0,255,0.7)"}, "filterValues": {"le": 1e-9},
            "legend": {"show": True}, "rowsFrame": {"layout": "auto"}, "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": True},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "short", "decimals": 0}}


def table_options(_: Panel) -> dict[str, Any]:
    return {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": []}}


def table_transformations(panel: Panel) -> list[dict[str, Any]]:
    """One line an instance, one column a query."""
    values = {f"Value #{chr(ord('A') + index)}": name for index, (name, _) in enumerate(panel.columns)}
    hidden = ["Time", "Value", *(column for column, name in values.items() if not name)]
    renamed = {**{column: name for column, name in values.items() if name}, **LABEL_HEADINGS}
    return [{"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {name: True for name in hidden}, "includeByName": {},
                                           "indexByName": {}, "renameByName": renamed}}]


OPTIONS = {
    "timeseries": timeseries_options,
    "stat": stat_options,
    "bargauge": bargauge_options,
    "heatmap": heatmap_options,
    "table": table_options,
}
