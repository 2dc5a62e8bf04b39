"use strict";
// Lays the panels out on the grid of the dashboard and draws each.

const UNIT = 33;
const DRAW = { timeseries, stat, bargauge, heatmap, table };

function placed(made, { x, y, w, h }) {
  const column = document.querySelector("main").clientWidth / 24;
  Object.assign(made.style, { left: `${x * column}px`, top: `${y * UNIT}px`, width: `${w * column}px`, height: `${h * UNIT}px` });
  document.querySelector("main").append(made);
}

function drawPanel(panel) {
  if (panel.kind === "row") {
    placed(element("div", "row", panel.title), panel.place);
    return;
  }
  const made = element("div", "panel"), card = element("div", "card"), body = element("div", "body");
  const legend = element("div", "legend");
  card.append(element("h2", "", panel.title), body);
  if (panel.kind === "timeseries" || panel.kind === "heatmap") card.append(legend);
  made.append(card);
  placed(made, panel.place);
  if (flat(panel).length === 0) {
    body.append(element("div", "empty", panel.empty ? `No data: ${panel.empty}` : "No data"));
    return;
  }
  // A heat map's scale comes after it, and needs one line.
  if (panel.kind === "heatmap") legend.style.minHeight = "18px";
  DRAW[panel.kind](panel, body, legend);
}

const header = document.querySelector("header");
header.append(element("h1", "", BOARD.title));
header.append(element("p", "", "The panels' queries, answered by Prometheus and drawn outside of Grafana. Two replicas of one thread each, "
  + "on one machine with the load: chat requests of one kind of text after the other"));
header.append(element("p", "", `(${BOARD.phases.map((phase) => phase.name).join(", ")}), a burst in the middle of each, `
  + "some requests without drafting, some with mistakes. Time since the beginning, in minutes."));
BOARD.panels.forEach(drawPanel);
console.log(`drawn: ${BOARD.name}`);
