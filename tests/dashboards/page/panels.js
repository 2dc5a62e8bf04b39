"use strict";
// One function for each kind of panel. Each gets the panel, the element to fill, and one for its legend.

const COLORS = ["#3274d9", "#e0701f", "#2f9e57", "#c43b62", "#8f5bc9", "#a8851b", "#1f9aa6", "#7a8190", "#d65db1", "#5d7a2b"];
const NAMED = { green: "#2f9e57", yellow: "#c99700", orange: "#e0701f", red: "#d1333f", blue: "#3274d9", purple: "#8f5bc9" };
const AXIS = { stroke: "#555c6b", grid: { stroke: "#e6e9ee", width: 1 }, ticks: { stroke: "#d8dbe2", size: 4 },
  font: "11px Liberation Sans, Arial, sans-serif" };

function element(kind, name, text) {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function flat(panel) {
  return panel.queries.flat();
}

// The values of all series at the moments of all of them.
function joined(series) {
  const moments = [...new Set(series.flatMap((one) => one.points.map(([moment]) => moment)))].sort((a, b) => a - b);
  const place = new Map(moments.map((moment, index) => [moment, index]));
  const rows = series.map((one) => {
    const row = new Array(moments.length).fill(null);
    for (const [moment, value] of one.points) row[place.get(moment)] = value;
    return row;
  });
  return { moments, rows };
}

// Dashed lines and names where the kind of text changes, and the panel's limits.
function marks(panel) {
  const limits = panel.defaults.custom?.thresholdsStyle?.mode === "dashed" ? panel.defaults.thresholds.steps.slice(1) : [];
  return (plot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.lineWidth = 1;
    ctx.setLineDash([4, 4]);
    ctx.font = AXIS.font;
    ctx.textBaseline = "bottom";
    ctx.textAlign = "left";
    BOARD.phases.forEach((phase, index) => {
      const x = Math.round(plot.valToPos(phase.from, "x", true)) + 0.5;
      ctx.strokeStyle = "#9aa1ad";
      if (index > 0) line(ctx, x, bbox.top - 12, x, bbox.top + bbox.height);
      ctx.fillStyle = "#6b7280";
      ctx.fillText(phase.name, x + 2, bbox.top - 2);
    });
    for (const { value, color } of limits) {
      const y = Math.round(plot.valToPos(value, "y", true)) + 0.5;
      ctx.strokeStyle = NAMED[color];
      if (y >= bbox.top && y <= bbox.top + bbox.height) line(ctx, bbox.left, y, bbox.left + bbox.width, y);
    }
    ctx.restore();
  };
}

function line(ctx, fromX, fromY, toX, toY) {
  ctx.beginPath();
  ctx.moveTo(fromX, fromY);
  ctx.lineTo(toX, toY);
  ctx.stroke();
}

function timeseries(panel, body, legend) {
  const series = flat(panel);
  const { moments, rows } = joined(series);
  const { custom, unit, min, max } = panel.defaults;
  const stacked = custom.stacking.mode === "normal";
  const drawn = stacked ? piled(rows) : rows;
  const highest = Math.max(...drawn.flat().filter((value) => value !== null));
  // Limits that are near the data belong on the page; others would flatten the lines.
  const limits = custom.thresholdsStyle.mode === "dashed" ? panel.defaults.thresholds.steps.slice(1).map((step) => step.value) : [];
  const top = Math.max(highest, ...limits.filter((limit) => limit < 1.5 * highest));
  const range = () => [min ?? Math.min(0, ...drawn.flat().filter((value) => value !== null)),
    max ?? (top > (min ?? 0) ? (min ?? 0) + (top - (min ?? 0)) * 1.15 : (min ?? 0) + 1)];
  const colors = series.map((one, index) => NAMED[panel.colors[one.name]] ?? COLORS[index % COLORS.length]);
  // The chart takes the room that its legend leaves.
  series.forEach((one, index) => entry(legend, colors[index], one.name));
  const order = series.map((_, index) => index);
  // From the back: each pile hides what is below it of the one before.
  if (stacked) order.reverse();
  new uPlot({
    width: body.clientWidth, height: body.clientHeight, legend: { show: false }, cursor: { show: false }, pxAlign: 0,
    // Above the lines is room for the names of the kinds of text.
    padding: [17, 14, 0, 0],
    scales: { x: { time: false, range: () => [BOARD.from, BOARD.to] }, y: { range } },
    axes: [
      { ...AXIS, size: 24, splits: () => quarterMinutes(), values: (_, splits) => splits.map(elapsed) },
      { ...AXIS, size: 66, space: 28, values: (_, splits) => splits.map((value) => written(value, unit)) },
    ],
    series: [{}, ...order.map((index) => ({
      stroke: colors[index], width: custom.lineWidth, points: { show: false }, spanGaps: false,
      fill: stacked ? mixed(colors[index], 0.45) : undefined,
    }))],
    hooks: { draw: [marks(panel)] },
  }, [moments, ...order.map((index) => drawn[index])], body);
}

// Every 15 seconds of the load.
function quarterMinutes() {
  const splits = [];
  for (let moment = BOARD.from; moment <= BOARD.to; moment += 15) splits.push(moment);
  return splits;
}

// Sums from the bottom up.
function piled(rows) {
  const below = new Array(rows[0].length).fill(0);
  return rows.map((row) => row.map((value, index) => (below[index] += value ?? 0)));
}

// The colour on white, without transparency: piles would shine through each other.
function mixed(color, share) {
  const parts = [1, 3, 5].map((place) => parseInt(color.slice(place, place + 2), 16));
  return `rgb(${parts.map((part) => Math.round(part * share + 255 * (1 - share))).join(",")})`;
}

function entry(legend, color, name) {
  const made = element("span");
  const swatch = element("i");
  swatch.style.background = color;
  made.append(swatch, name);
  legend.append(made);
}

function stat(panel, body) {
  const [, value] = flat(panel)[0].points.at(-1);
  const { unit, decimals, thresholds } = panel.defaults;
  const made = element("div", "value", written(value, unit, decimals));
  const passed = thresholds.steps.filter((step) => step.value === null || value >= step.value);
  made.style.color = NAMED[passed.at(-1).color];
  body.append(made);
}

function bargauge(panel, body) {
  const bars = element("div", "bars");
  const { unit, decimals, max } = panel.defaults;
  for (const one of flat(panel)) {
    const [, value] = one.points.at(-1);
    const bar = element("b");
    const filled = element("i");
    filled.style.width = `${(100 * value) / max}%`;
    bar.append(filled);
    bars.append(element("span", "", one.name), bar, element("span", "", written(value, unit, decimals)));
  }
  body.append(bars);
}

function table(panel, body) {
  const { names, hidden, units } = panel.columns;
  const lines = new Map();
  const headings = [];
  const put = (line, name, text) => {
    if (!headings.includes(name)) headings.push(name);
    line.set(name, text);
  };
  panel.queries.forEach((query, index) => {
    const column = `Value #${String.fromCharCode(65 + index)}`;
    for (const { labels, points } of query) {
      const key = labels.instance ?? JSON.stringify(labels);
      if (!lines.has(key)) lines.set(key, new Map());
      const line = lines.get(key);
      for (const [label, text] of Object.entries(labels)) put(line, names[label] ?? label, text);
      if (hidden[column] || (panel.queries.length === 1 && hidden.Value)) continue;
      const name = names[column];
      put(line, name, written(points.at(-1)[1], units[name] ?? "none"));
    }
  });
  const made = element("table");
  const head = element("tr");
  head.append(...headings.map((name) => element("th", "", name)));
  made.append(head);
  for (const line of [...lines.values()]) {
    const row = element("tr");
    row.append(...headings.map((name) => element("td", "", line.get(name) ?? "-")));
    made.append(row);
  }
  body.append(made);
}

function heatmap(panel, body, legend) {
  const ofBuckets = panel.format === "heatmap";
  const series = flat(panel).sort((a, b) => number(a.name) - number(b.name));
  const { moments, rows } = joined(series);
  const cells = ofBuckets ? rows.map((row, index) => row.map((value, at) => value - (index ? rows[index - 1][at] : 0))) : rows;
  const highest = ofBuckets ? Math.max(...cells.flat()) : 1;
  const width = body.clientWidth, height = body.clientHeight;
  const canvas = element("canvas");
  canvas.width = width;
  canvas.height = height;
  body.append(canvas);
  const ctx = canvas.getContext("2d");
  const box = { left: 40, top: 16, width: width - 52, height: height - 40 };
  const at = (moment) => box.left + (box.width * (moment - BOARD.from)) / (BOARD.to - BOARD.from);
  const tall = box.height / series.length;
  const step = (box.width * (moments[1] - moments[0])) / (BOARD.to - BOARD.from);
  cells.forEach((row, index) => row.forEach((value, place) => {
    if (!(value > 1e-9)) return;
    ctx.fillStyle = heat(ofBuckets ? Math.sqrt(value / highest) : value);
    ctx.fillRect(at(moments[place]), box.top + box.height - (index + 1) * tall, step + 0.5, tall - 1);
  }));
  ctx.font = AXIS.font;
  ctx.fillStyle = AXIS.stroke;
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  const every = Math.ceil(13 / tall);
  series.forEach((one, index) => {
    if (index % every === 0) ctx.fillText(one.name, box.left - 6, box.top + box.height - (index + 0.5) * tall);
  });
  ctx.textAlign = "center";
  for (const moment of quarterMinutes()) ctx.fillText(elapsed(moment), at(moment), box.top + box.height + 12);
  ctx.textAlign = "left";
  BOARD.phases.forEach((phase, index) => {
    ctx.fillStyle = "#6b7280";
    ctx.fillText(phase.name, at(phase.from) + 4, 7);
    ctx.setLineDash([4, 4]);
    ctx.strokeStyle = "#9aa1ad";
    if (index > 0) line(ctx, at(phase.from), 0, at(phase.from), box.top + box.height);
  });
  const scale = element("div", "scale");
  const colors = element("i");
  colors.style.background = `linear-gradient(to right, ${[0, 0.25, 0.5, 0.75, 1].map(heat).join(",")})`;
  scale.append(written(0, panel.options.cellValues.unit), colors, written(highest, panel.options.cellValues.unit));
  legend.append(scale);
}

function number(name) {
  return name === "+Inf" ? Infinity : Number(name);
}

// From near white to dark orange.
function heat(share) {
  const low = [254, 237, 220], high = [166, 54, 3];
  const place = Math.min(1, Math.max(0, share));
  return `rgb(${low.map((part, index) => Math.round(part + (high[index] - part) * place)).join(",")})`;
}
