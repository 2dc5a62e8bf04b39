// Asks the replica what it does, once a second, and shows it.

const POLL_MILLISECONDS = 1000;
const $ = (id) => document.getElementById(id);

const known = new History();
const chart = new SpeedupChart($("speedup-chart"));
let server = null;
let streams = new Map();

class Refused extends Error {}

async function ask(path) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const reply = await fetch(path, { headers, cache: "no-store" });
  if (reply.status === 401) throw new Refused();
  if (!reply.ok) throw new Error(`${path}: ${reply.status}`);
  return reply.json();
}

function text(id, value) {
  if ($(id).textContent !== value) $(id).textContent = value;
}

// A figure with a small unit behind it.
function figure(id, value, unit = "") {
  $(id).replaceChildren(value, element("small", "", unit && ` ${unit}`));
}

function showServer() {
  const { model } = server;
  const name = element("b", "", model.name);
  const facts = [model.weight_types.join(" + "), `${model.layers} layers`, server.instruction_set, `${server.threads} threads`,
    `up ${duration(Math.floor(server.uptime_seconds))}`];
  $("server").replaceChildren(name, ` · ${facts.join(" · ")}`);
  $("server").title = `Skipstone ${server.version}; ${model.architecture}, context ${number(model.context_length)}, `
    + `vocabulary ${number(model.vocabulary)}, fingerprint ${model.fingerprint}`;
}

function showState(kind, words) {
  $("state").className = `pill ${kind}`;
  text("state", words);
}

function showTiles(activity, recent) {
  const { account } = recent;
  const value = speedup(account);
  figure("speedup", times(value));
  $("speedup").className = value === null ? "" : value >= 1 ? "good-text" : "bad-text";
  text("speedup-note", `against a plain step of ${duration(activity.plain_step_seconds)}`);
  figure("rate", recent.seconds > 0 ? number(recent.committed / recent.seconds) : "–", "tokens/s");
  text("rate-note", `${number(activity.totals.committed_tokens)} tokens since the start`);
  figure("acceptance", percent(acceptance(account)));
  const perCycle = ratio(account.draft_tokens, account.drafts);
  text("acceptance-note", perCycle === null ? "nothing drafted" : `${perCycle.toFixed(1)} tokens a draft, ${number(account.drafts)} drafts`);
  figure("requests", number(activity.running.length), `of ${server.max_streams} running`);
  const ended = add(Object.values(activity.totals.finished));
  text("requests-note", `${number(activity.waiting)} waiting, ${number(ended)} ended`);
  figure("cache", percent(activity.kv_cache_usage));
  text("cache-note", `of ${number(server.kv_cache_tokens)} positions leased`);
}

function showMap(account) {
  const steps = account.draft_steps;
  const counts = account.skipped_per_sublayer;
  text("map-note", steps > 0 ? `${number(steps)} draft steps.` : "No draft steps: streams decode plainly, or by repetitions in the text.");
  drawMap($("map"), server.model.layers, {
    share: (sublayer) => ratio(counts[sublayer] ?? 0, steps),
    title: (_, share) => (share === null ? "no draft steps" : `skipped in ${percent(share)} of draft steps`),
  });
}


// What a stream did since the last look.
function doing(stream, recent) {
  if (stream.state === "STREAM_STATE_PREFILL") return "reading the prompt";
  if (stream.state === "STREAM_STATE_FINISHED") return "done";
  if (recent.draft_steps > 0) return "drafting";
  if (recent.drafts > 0) return "repeating text (n-gram)";
  const reason = Object.entries(recent.off_seconds).sort((a, b) => b[1] - a[1])[0];
  return reason && reason[1] > 0 ? `plain: ${reasons[reason[0]] ?? reason[0]}` : "waiting for its reader";
}

function streamCard(stream, before) {
  const recent = between(stream.account, before?.account);
  const card = element("div", "stream");
  const about = element("div");
  about.append(element("div", "id", stream.request_id));
  about.firstChild.title = stream.request_id;
  const progress = element("div", "progress");
  progress.append(element("i"));
  progress.firstChild.style.width = `${(100 * stream.committed_tokens) / stream.max_new_tokens}%`;
  about.append(progress);
  about.append(element("small", "", `${number(stream.committed_tokens)} of ${number(stream.max_new_tokens)} tokens, prompt ${number(stream.prompt_tokens)}`));

  const pace = element("div");
  const decoding = stream.total_seconds - (stream.first_token_seconds ?? stream.total_seconds);
  const rate = element("div", "figure", decoding > 0 ? number((stream.committed_tokens - 1) / decoding) : "–");
  rate.append(element("small", "", " tokens/s"));
  pace.append(element("label", "", stream.policy), rate, element("small", "", doing(stream, recent)));

  const gain = element("div");
  const value = stream.account.estimated_speedup ?? null;
  gain.append(element("label", "", "speedup"), element("div", `figure ${value === null ? "" : value >= 1 ? "good-text" : "bad-text"}`, times(value)));
  const bar = element("div", "split small");
  drawSplit(bar, split(stream.account).filter((part) => part.name !== "prefill"));
  gain.append(bar);

  const drafts = element("div");
  const top = [...stream.account.arms].sort((a, b) => b.cycles - a.cycles)[0];
  drafts.append(element("label", "", "acceptance"), element("div", "figure", percent(acceptance(stream.account))));
  drafts.append(element("small", "", top ? `most bets: ${top.name}` : `${number(stream.account.drafts)} drafts`));

  const plan = element("div");
  if (stream.plan) {
    const bridges = stream.plan.bridges;
    const skips = new Set([...stream.plan.skip_set.attention_layers.map((layer) => 2 * layer), ...stream.plan.skip_set.mlp_layers.map((layer) => 2 * layer + 1)]);
    const isBridged = (sublayer) => bridges.some((bridge) => bridge.first_sublayer <= sublayer && sublayer <= bridge.last_sublayer);
    const label = element("label", "", `plan “${stream.plan.name}” skips ${skips.size} of ${2 * server.model.layers} sublayers`);
    if (stream.plan.stand_in_layers > 0) label.append(", with a stand-in");
    if (bridges.length > 0) label.append(", ", element("span", "bridge-key", "bridged"));
    plan.append(label);
    const map = element("div");
    drawMap(map, server.model.layers, {
      small: true,
      share: (sublayer) => (skips.has(sublayer) ? 1 : 0),
      bridged: isBridged,
      title: (sublayer) => (!skips.has(sublayer) ? "runs" : isBridged(sublayer) ? "skipped, a bridge in its place" : "skipped"),
    });
    plan.append(map);
  } else {
    plan.append(element("label", "", stream.policy === "off" ? "drafting is off for this request" : "no plan: the model has no profile"));
  }
  card.append(about, pace, gain, drafts, plan);
  return card;
}

function showStreams(running) {
  const cards = running.map((stream) => streamCard(stream, streams.get(stream.request_id)));
  $("running").replaceChildren(...(cards.length ? cards : [element("p", "nothing", "None at the moment.")]));
  streams = new Map(running.map((stream) => [stream.request_id, stream]));
}

const COLUMNS = ["request", "ended", "how", "policy", "tokens", "tokens/s", "acceptance", "speedup", "first token", "time"];
const NARROW = new Set(["how", "policy", "acceptance", "first token", "time"]);

function showFinished(finished) {
  const row = (kind, cells) => {
    const made = element("tr");
    cells.forEach((cell, index) => {
      const name = NARROW.has(COLUMNS[index]) ? "hide-narrow" : "";
      const one = made.appendChild(element(kind, name));
      one.append(cell);
    });
    return made;
  };
  const rows = finished.slice(0, 10).map((stream) => {
    const decoding = stream.total_seconds - (stream.first_token_seconds ?? stream.total_seconds);
    const bar = element("div", "split small");
    drawSplit(bar, split(stream.account));
    return row("td", [stream.request_id, `${duration(stream.ended_seconds_ago)} ago`, stream.finish_reason, stream.policy,
      number(stream.committed_tokens), decoding > 0 ? number((stream.committed_tokens - 1) / decoding) : "–", percent(acceptance(stream.account)),
      times(stream.account.estimated_speedup ?? null), stream.first_token_seconds ? duration(stream.first_token_seconds) : "–", bar]);
  });
  $("finished").replaceChildren(row("th", COLUMNS), ...rows);
}

function show(activity) {
  const seconds = Number(document.querySelector("#window input:checked").value);
  const recent = known.since(seconds, server.uptime_seconds);
  const words = seconds ? `last ${duration(Math.round(Math.min(seconds, recent.seconds)))}` : "since the start";
  for (const place of document.querySelectorAll(".span")) place.textContent = words;
  showTiles(activity, recent);
  chart.show(known.line(seconds), seconds);
  const parts = split(recent.account);
  drawSplit($("split"), parts);
  drawLegend($("split-legend"), parts);
  showMap(recent.account);
  drawArms($("arms"), recent.account.arms);
  drawPositions($("positions"), recent.account.drafted_per_position, recent.account.accepted_per_position);
  showStreams(activity.running);
  showFinished(activity.finished);
}

async function look() {
  // One question at a time, however slow the answers.
  const again = () => setTimeout(look, POLL_MILLISECONDS);
  let activity;
  try {
    activity = await ask("api/activity");
    // Uptime and readiness change as well.
    server = await ask("api/server");
  } catch (error) {
    if (error instanceof Refused) $("login").hidden = false;
    showState("bad", error instanceof Refused ? "token needed" : "out of reach");
    again();
    return;
  }
  again();
  known.push(performance.now() / 1000, activity);
  $("login").hidden = true;
  showServer();
  showState(server.is_ready ? "good" : "bad", server.is_ready ? "serving" : "draining");
  show(activity);
  document.body.dataset.looks = Number(document.body.dataset.looks ?? 0) + 1;
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", event.target.querySelector("input").value.trim());
});
look();
