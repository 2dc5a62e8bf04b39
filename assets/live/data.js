// What is known: samples of the sums since the start, and what happened between two of them.

const KEEP_SECONDS = 600;
// A line drawn from sums of this many seconds is steady enough to read, and still shows what just changed.
const SMOOTH_SECONDS = 5;

const add = (numbers) => numbers.reduce((sum, number) => sum + number, 0);
const ratio = (part, whole) => (whole > 0 ? part / whole : null);
const difference = (now, before) => now - (before ?? 0);
const each = (now, before) => now.map((number, index) => difference(number, before?.[index]));
const named = (now, before) =>
  Object.fromEntries(Object.entries(now).map(([name, number]) => [name, difference(number, before?.[name])]));

const byName = (arms) => Object.fromEntries(arms.map((arm) => [arm.name, arm.cycles]));

// What happened between two states of an account; without the first, since its beginning.
function between(now, before) {
  return {
    drafts: difference(now.drafts, before?.drafts),
    draft_tokens: difference(now.draft_tokens, before?.draft_tokens),
    accepted_tokens: difference(now.accepted_tokens, before?.accepted_tokens),
    drafted_per_position: each(now.drafted_per_position, before?.drafted_per_position),
    accepted_per_position: each(now.accepted_per_position, before?.accepted_per_position),
    draft_steps: difference(now.draft_steps, before?.draft_steps),
    skipped_per_sublayer: each(now.skipped_per_sublayer, before?.skipped_per_sublayer),
    phases: named(now.phases, before?.phases),
    off_seconds: named(now.off_seconds, before?.off_seconds),
    arms: named(byName(now.arms), before && byName(before.arms)),
    plain_equivalent_seconds: difference(now.plain_equivalent_seconds, before?.plain_equivalent_seconds),
    spent_seconds: difference(now.spent_seconds, before?.spent_seconds),
  };
}

const speedup = (account) => ratio(account.plain_equivalent_seconds, account.spent_seconds);
const acceptance = (account) => ratio(account.accepted_tokens, account.draft_tokens);
const reasons = { request: "asked for", no_gain: "no bet pays", length: "output ends", baseline: "measures plain decoding", backend: "backend" };

// The parts of an account's time, with their colours' names.
function split(account) {
  const { prefill, draft, verify, plain } = account.phases;
  const why = Object.entries(account.off_seconds).filter(([, seconds]) => seconds > 0.005 * plain).sort((a, b) => b[1] - a[1]);
  return [
    { name: "draft", title: "Draft", seconds: draft, why: "tokens through part of the model" },
    { name: "verify", title: "Verify", seconds: verify, why: "drafts through the whole model" },
    { name: "plain", title: "Plain (off)", seconds: plain,
      why: why.map(([name, seconds]) => `${reasons[name] ?? name} ${percent(ratio(seconds, plain))}`).join(", ") },
    { name: "prefill", title: "Prefill", seconds: prefill, why: "prompts" },
  ];
}

const percent = (share) => (share === null ? "–" : `${Math.round(100 * share)} %`);
const times = (number) => (number === null ? "–" : `${number.toFixed(2)}×`);
const number = (value) => Math.round(value).toLocaleString("en");

function duration(seconds) {
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

class History {
  constructor() {
    this.samples = [];
  }

  // Takes in a reply. A replica that started anew has smaller sums, and nothing in common with what was seen before.
  push(moment, activity) {
    const last = this.samples.at(-1);
    if (last && activity.totals.account.spent_seconds < last.totals.account.spent_seconds) this.samples = [];
    const sample = { moment, totals: activity.totals };
    this.samples.push(sample);
    const before = this.before(moment - SMOOTH_SECONDS).totals.account;
    sample.speedup = speedup(between(sample.totals.account, before));
    while (this.samples[0].moment < moment - KEEP_SECONDS) this.samples.shift();
  }

  // What happened in the last seconds; 0 is since the start of the replica.
  since(seconds, uptime) {
    const last = this.samples.at(-1);
    const first = seconds > 0 ? this.before(last.moment - seconds) : null;
    return {
      seconds: first ? last.moment - first.moment : uptime,
      committed: difference(last.totals.committed_tokens, first?.totals.committed_tokens),
      prompt: difference(last.totals.prompt_tokens, first?.totals.prompt_tokens),
      account: between(last.totals.account, first?.totals.account),
    };
  }

  // The last sample that is at least as old as the moment, or the oldest.
  before(moment) {
    let found = this.samples[0];
    for (const sample of this.samples) {
      if (sample.moment > moment) break;
      found = sample;
    }
    return found;
  }

  // The speedup at each sample, from what happened shortly before; null where nothing was decoded.
  line(seconds) {
    const start = seconds > 0 ? this.samples.at(-1).moment - seconds : -Infinity;
    const shown = this.samples.filter((sample) => sample.moment >= start);
    return [shown.map((sample) => sample.moment), shown.map((sample) => sample.speedup)];
  }
}
