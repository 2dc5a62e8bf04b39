// The drawings: the line of the speedup, the sublayer map, bars.

function element(kind, name, text) {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class SpeedupChart {
  constructor(place) {
    this.place = place;
    const again = () => this.build();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(place);
    this.data = [[], []];
    this.build();
  }

  size() {
    return { width: this.place.clientWidth, height: this.place.clientHeight };
  }

  build() {
    this.plot?.destroy();
    const axis = { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false },
      font: "11px system-ui, Liberation Sans, Arial, sans-serif" };
    const options = {
      ...this.size(),
      cursor: { y: false, drag: { x: false } },
      scales: { x: { time: false, range: () => this.window },
        // 1 is always in sight: it is what the line is to be compared with.
        y: { range: (_, low, high) => [Math.min(0.8, (low ?? 1) - 0.1), Math.max(1.4, (high ?? 1) + 0.1)] } },
      axes: [
        { ...axis, splits: () => this.ticks(), values: (_, moments) => moments.map((moment) => this.ago(moment)), size: 26 },
        { ...axis, values: (_, values) => values.map((value) => `${value.toFixed(1)}×`), incrs: [0.1, 0.2, 0.5, 1, 2, 5, 10], size: 44 },
      ],
      series: [{}, { stroke: color("--draft"), width: 2, points: { show: false },
        fill: (plot) => this.shade(plot), fillTo: 1 }],
      hooks: { drawAxes: [(plot) => this.baseline(plot)] },
      legend: { show: false },
    };
    this.window = [0, 1];
    this.plot = new uPlot(options, this.data, this.place);
    if (this.last !== undefined) this.show(this.data, this.seconds);
  }

  // Round times back from now, half a dozen of them at most.
  ticks() {
    const [start, end] = this.window;
    const step = [5, 10, 30, 60, 120].find((step) => (end - start) / step <= 6) ?? 120;
    const count = Math.floor((end - start) / step + 1e-6);
    return Array.from({ length: count + 1 }, (_, index) => end - (count - index) * step);
  }

  ago(moment) {
    const seconds = Math.round(this.last - moment);
    if (seconds === 0) return "now";
    return seconds % 60 === 0 ? `−${seconds / 60} min` : `−${seconds} s`;
  }

  // Green above 1, red below.
  shade(plot) {
    const { top, height } = plot.bbox;
    const one = Math.min(Math.max((plot.valToPos(1, "y", true) - top) / height, 0), 1);
    const gradient = plot.ctx.createLinearGradient(0, top, 0, top + height);
    gradient.addColorStop(0, `${color("--good")}55`);
    gradient.addColorStop(one, `${color("--good")}22`);
    gradient.addColorStop(one, `${color("--bad")}22`);
    gradient.addColorStop(1, `${color("--bad")}66`);
    return gradient;
  }

  baseline(plot) {
    const { ctx, bbox } = plot;
    const y = Math.round(plot.valToPos(1, "y", true));
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = color("--quiet");
    ctx.setLineDash([5, 4]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.font = `${11 * devicePixelRatio}px system-ui, Liberation Sans, Arial, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "top";
    ctx.fillText("plain decoding", bbox.left + 6 * devicePixelRatio, y + 4 * devicePixelRatio);
    ctx.restore();
  }

  // The values at these moments. The axis goes back by `seconds`, or by ten minutes at most if that is 0.
  show(data, seconds) {
    this.data = data;
    this.seconds = seconds;
    this.last = data[0].at(-1) ?? 0;
    this.window = [this.last - (seconds || Math.max(30, this.last - (data[0][0] ?? this.last))), this.last];
    this.plot.setData(data);
  }
}

// Which layers get a number under them: few enough to be read.
function labelled(layers) {
  const step = [1, 2, 5, 10, 20, 50].find((step) => layers / step <= 16) ?? 100;
  return (layer) => layer % step === 0;
}

// A grid of layers by attention and MLP. `share(sublayer)` is 0 to 1, or null where nothing is known; `title` says it in words.
function drawMap(place, layers, { share, title, bridged = () => false, small = false }) {
  const key = `${layers} ${small}`;
  if (place.dataset.key !== key) {
    place.dataset.key = key;
    place.className = small ? "map small" : "map";
    place.style.gridTemplateColumns = `auto repeat(${layers}, minmax(0, 1fr))`;
    const cells = [];
    const row = (name) => {
      place.append(element("b", "", name));
      return Array.from({ length: layers }, () => place.appendChild(element("i")));
    };
    place.replaceChildren();
    const attention = row(small ? "A" : "Attention");
    const mlp = row(small ? "M" : "MLP");
    for (let layer = 0; layer < layers; layer++) cells.push(attention[layer], mlp[layer]);
    place.cells = cells;
    if (!small) {
      place.append(element("b", "", "layer"));
      const shown = labelled(layers);
      for (let layer = 0; layer < layers; layer++) place.append(element("u", "", shown(layer) ? layer : ""));
    }
  }
  place.cells.forEach((cell, sublayer) => {
    const value = share(sublayer);
    cell.style.backgroundColor = value ? `rgb(${color("--skip")} / ${(0.12 + 0.88 * value).toFixed(3)})` : "";
    cell.dataset.share = value ?? "";
    cell.classList.toggle("bridged", bridged(sublayer));
    cell.title = `layer ${sublayer >> 1}, ${sublayer % 2 ? "MLP" : "attention"}: ${title(sublayer, value)}`;
  });
}

function drawSplit(place, parts) {
  const whole = add(parts.map((part) => part.seconds));
  place.replaceChildren(...parts.filter((part) => part.seconds > 0).map((part) => {
    const bar = element("i", part.name);
    bar.style.flex = `${part.seconds / whole} 0 0`;
    bar.title = `${part.title}: ${percent(part.seconds / whole)}`;
    return bar;
  }));
  place.setAttribute("aria-label", parts.map((part) => `${part.title} ${percent(ratio(part.seconds, whole))}`).join(", "));
}

function drawLegend(place, parts) {
  const whole = add(parts.map((part) => part.seconds));
  place.replaceChildren(...parts.flatMap((part) => [
    element("i", part.name),
    element("dt", "", part.title),
    element("dd", "why", part.why),
    element("dd", "share", percent(ratio(part.seconds, whole))),
  ]));
}

// The few names with the largest numbers, as bars.
function drawArms(place, arms) {
  const known = Object.entries(arms).filter(([, cycles]) => cycles > 0).sort((a, b) => b[1] - a[1]);
  const whole = add(known.map(([, cycles]) => cycles));
  const rows = known.slice(0, 3);
  const rest = add(known.slice(3).map(([, cycles]) => cycles));
  if (rest > 0) rows.push([`${known.length - 3} other plans`, rest]);
  if (rows.length === 0) {
    place.replaceChildren(element("p", "nothing", "No adaptive stream drafted."));
    return;
  }
  place.replaceChildren(...rows.flatMap(([name, cycles]) => {
    const bar = element("div", "track");
    bar.append(element("i"));
    bar.firstChild.style.width = `${(100 * cycles) / whole}%`;
    const label = element("span", "", name === "ngram" ? "repetitions (n-gram)" : name);
    label.title = label.textContent;
    return [label, bar, element("b", "", percent(cycles / whole)), element("small", "hide-narrow", `${number(cycles)} cycles`)];
  }));
}

function drawPositions(place, drafted, accepted) {
  const known = drafted.map((count, index) => ({ count, accepted: accepted[index], place: index + 1 })).filter((one) => one.count > 0);
  if (known.length === 0) {
    place.replaceChildren(element("p", "nothing", "Nothing was drafted."));
    return;
  }
  place.replaceChildren(...known.map(({ count, accepted, place }) => {
    const column = element("div");
    const bar = element("div", "bar");
    const fill = bar.appendChild(element("i"));
    fill.style.height = `${(100 * accepted) / count}%`;
    column.append(element("b", "", percent(accepted / count)), bar, element("span", "", place), element("small", "", `of ${number(count)}`));
    column.title = `position ${place}: ${number(accepted)} of ${number(count)} drafted tokens accepted`;
    return column;
  }));
}
