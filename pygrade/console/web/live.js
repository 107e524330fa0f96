// The service's state, /v1/status, polled where the page comes from a service; absent in a file.
import { intervalBar, reachOf, shareBar } from "./charts.js";
import { count, facts, h, note, percent, share, show, table } from "./dom.js";

const EVERY = 5000; // ms
const SHIFTED = [0.1, 0.25]; // PSI from which a prediction has moved, and is another one
const LISTED = 20; // newest entries of a history

export class Live {
  constructor(place) {
    this.place = place;
    this.parts = new Map(); // id → {details, body}, which stay open or closed while their numbers change
  }

  start() {
    if (!location.protocol.startsWith("http")) return;
    this.poll();
    setInterval(() => document.hidden || this.poll(), EVERY);
    document.addEventListener("visibilitychange", () => document.hidden || this.poll());
  }

  async poll() {
    try {
      const response = await fetch("v1/status", { headers: { accept: "application/json" }, cache: "no-store" });
      if (response.status === 401) throw new Error("a token is wanted: load the page again with it as the password");
      if (!response.ok) throw new Error(`the service answers ${response.status}`);
      this.draw(await response.json());
      this.place.hidden = false;
    } catch (error) {
      if (this.status === undefined && !(error instanceof TypeError)) this.place.hidden = false;
      this.tell(`no state since ${this.at ?? "the start"}: ${error.message}`);
    }
    this.place.dataset.polls = String(1 + Number(this.place.dataset.polls ?? 0));
  }

  tell(text) {
    if (this.status === undefined) show(this.place, h("div.box", h("p.bad", text)));
    else this.place.querySelector(".state")?.replaceChildren(h("span.bad", text));
  }

  draw(status) {
    const before = this.status;
    this.status = status;
    this.at = moment(status.timestamp).slice(11);
    const focused = document.activeElement?.id;
    const scrolled = new Map([...this.place.querySelectorAll(".scroll")].map((e) => [e.ariaLabel, e.scrollLeft]));
    const lost = status.store_state && status.store_state !== "reachable"; // of a policy's run it is null
    const ready = status.draining ? "draining" : lost ? "degraded" : "serving";
    const state = [
      ["artifact", status.artifact],
      ["store", status.store && (lost ? `${status.store}, ${status.store_state}` : status.store)],
      ["pygrade", status.version],
      ["at", `${this.at} UTC`],
    ].filter(([, value]) => value);
    const badge = h(ready === "serving" ? "span.badge.better" : "span.badge.worse", ready);
    const box = h(
      "div.box",
      h("div.row", h("h2", "Live ", badge), h("p.facts.state", facts(state))),
      (status.warnings ?? []).map((text) => h("p.bad", text)),
      h("div.cards", cards(status, before)),
      this.part("arms", "Arms", armsTable(status)),
      this.part("latency", "Latency by step", latencyTable(status)),
      this.part("drift", "Drift of predictions, and weights", driftTable(status)),
      status.shadows?.length ? this.part("shadows", "Shadow policies", shadowTable(status)) : null,
      this.part("online", "Online learner", onlineTable(status.online)),
      this.part("reloads", "Reloads", reloadTable(status.reloads)),
    );
    show(this.place, box);
    for (const region of this.place.querySelectorAll(".scroll"))
      region.scrollLeft = scrolled.get(region.ariaLabel) ?? 0;
    if (focused) document.getElementById(focused)?.focus();
  }

  part(id, title, content) {
    if (!this.parts.has(id)) {
      const body = h("div");
      const details = h("details", { open: id === "arms" }, h("summary", { id: `live-${id}` }, title), body);
      this.parts.set(id, { body, details });
    }
    const { details, body } = this.parts.get(id);
    show(body, content);
    return details;
  }
}

function total(values) {
  return values.reduce((sum, value) => sum + (value ?? 0), 0);
}

function milliseconds(seconds) {
  if (!Number.isFinite(seconds)) return "n/a";
  const value = 1000 * seconds;
  return value < 0.1 ? `${(1000 * value).toFixed(0)} µs` : `${value.toFixed(value < 10 ? 2 : 0)} ms`;
}

function moment(ms) {
  return ms ? new Date(ms).toISOString().slice(0, 19).replace("T", " ") : "n/a";
}

function newest(entries) {
  return [...(entries ?? [])].reverse().slice(0, LISTED);
}

function served(status) {
  return total(Object.values(status.requests?.["/v1/rank"] ?? {}));
}

function cards(status, before) {
  const { latency = {}, degraded = {}, fallback = {}, requests = {} } = status;
  const rank = latency["/v1/rank"] ?? {};
  const seconds = before ? (status.timestamp - before.timestamp) / 1000 : 0;
  const rate = seconds > 0 ? Math.max(0, served(status) - served(before)) / seconds : NaN;
  const badOnes = (reasons) => Object.entries(reasons).filter(([name]) => name !== "none");
  const sum = (entries) => total(entries.map(([, value]) => value));
  const bad = (reasons) => share(sum(badOnes(reasons)) / Math.max(1, sum(Object.entries(reasons))), 2);
  const failures = Object.values(requests).flatMap((entry) => Object.entries(entry).filter(([code]) => code >= "500"));
  const reasons = badOnes(degraded).map(([name, value]) => `${name} ${count(value)}`);
  const percentiles = `p50 ${milliseconds(rank.p50)}, p99.9 ${milliseconds(rank.p999)}`;
  return [
    ["pages a second", Number.isFinite(rate) ? rate.toFixed(1) : "…", `${count(served(status))} since the start`],
    ["p99 of rank", milliseconds(rank.p99), percentiles],
    ["degraded pages", bad(degraded), reasons.join(", ")],
    ["static weights", bad(fallback), "pages without the user's features"],
    ["answers 5xx", count(sum(failures)), "of all endpoints"],
  ].map(([name, value, text]) => h("div.card", h("small", name), h("b.number", value), note(text)));
}

function armsTable({ arms, online }) {
  const reading = online?.arms ?? null;
  const lifts = Object.entries(reading?.lifts ?? {}).flatMap(([arm, byTask]) =>
    Object.entries(byTask).map(([task, read]) => ({ arm, task, ...read, lift: read.anytime ?? read.corrected })),
  );
  const bar = ({ arm, task, lift }) => {
    const same = lifts.filter((other) => (other.task === "value") === (task === "value"));
    return lift ? intervalBar(lift, reachOf(same.map((other) => other.lift)), `${arm} ${task}`) : h("span");
  };
  const rows = arms.map((arm) => {
    const own = lifts.find((lift) => lift.arm === arm.name && lift.task === "value");
    const control = reading && arm.name === reading.control;
    return [
      ...[arm.name, share(arm.share, 0), arm.policy, rankedBy(arm), count(arm.pages), count(arm.explored)],
      count(arm.effective_samples?.narrower ?? 0),
      reading ? count(reading.users?.[arm.name] ?? 0) : "n/a",
      own?.lift ? percent(own.lift.value) : control ? "control" : "n/a",
      own?.lift ? bar(own) : h("span.note", control ? "" : "no lift yet"),
    ];
  });
  const interval = "anytime-valid 95 % interval";
  const columns = ["arm", "share", "policy", "ranked by", "pages", "explored", "ESS", "users", "value lift", interval];
  const tasks = lifts.filter(({ task }) => task !== "value");
  const taskRows = tasks.map((entry) => [
    entry.arm,
    entry.task,
    entry.lift ? percent(entry.lift.value) : "n/a",
    bar(entry),
  ]);
  const sentences = [
    ...arms.filter((arm) => arm.sentence).map((arm) => [`${arm.name}: `, arm.sentence]),
    ...lifts
      .filter(({ undecidable }) => undecidable)
      .map(({ arm, task, undecidable }) => [`${arm}, ${task}: `, `not decidable: ${undecidable}.`]),
  ];
  return h(
    "div",
    table("Arms", columns, rows, { numbers: 8 }),
    sentences.map(([name, text]) => note(h("b", name), text)),
    taskRows.length > 0 && table("Lifts by task", ["arm", "task", "lift", interval], taskRows, { numbers: 2 }),
    note(
      reading?.reason
        ? `No lifts: ${reading.reason}.`
        : "Each user counts once, in the arm that served them first; the intervals hold at any time. ESS: of the explored pages, for a policy that explores half as widely.",
    ),
  );
}

function latencyTable({ latency = {}, steps = {} }) {
  const whole = Object.entries(latency).map(([name, entry]) => [`all of ${name.replace(/^.*\//, "")}`, entry]);
  const entries = [...whole, ...Object.entries(steps)].filter(([, entry]) => entry.count > 0);
  const most = Math.max(...entries.map(([, { p99 }]) => p99 ?? 0), 1e-9);
  const rows = entries.map(([name, entry]) => [
    name,
    count(entry.count),
    ...["p50", "p90", "p99", "p999"].map((q) => milliseconds(entry[q])),
    shareBar(entry.p99 ?? 0, "task task-0", most),
  ]);
  return table("Latency", ["step", "count", "p50", "p90", "p99", "p99.9", ""], rows, { numbers: 5 });
}

function driftTable({ drift = {}, weights = [], tasks = [] }) {
  const word = (index) => (index >= SHIFTED[1] ? "another distribution" : index >= SHIFTED[0] ? "moved" : "stable");
  const rows = tasks.map((task) => {
    const index = drift[task];
    const measured = Number.isFinite(index);
    const text = measured ? word(index) : "no reference, or too few predictions";
    return [
      ...[task, measured ? index.toFixed(3) : "n/a", h(index >= SHIFTED[1] ? "span.bad" : "span.note", text)],
      shareBar(measured ? Math.min(index, 0.5) : 0, "task task-1", 0.5),
    ];
  });
  const means = weights.map(({ scenario, pages, mean, sd }) => [
    scenario || "(none)",
    count(pages),
    ...tasks.map((task) => `${share(mean[task])} ± ${(100 * (sd[task] ?? 0)).toFixed(1)}`),
  ]);
  return h(
    "div",
    table("Drift", ["task", "PSI", "", ""], rows, { numbers: 1 }),
    note("PSI of the predictions against those that the policy was trained on."),
    table("Weights by scenario", ["scenario", "pages", ...tasks], means),
    note("Mean and standard deviation of the weights that are served."),
  );
}

// What makes the scores: one ranking, or two with the share of the first.
function rankedBy({ ranking = [], mixture_weight: weight }) {
  return ranking.length > 1 ? `${share(weight, 0)} ${ranking[0]} + ${ranking[1]}` : (ranking[0] ?? "n/a");
}

function shadowTable({ shadows }) {
  const text = (value) => (Number.isFinite(value) ? value.toFixed(3) : "n/a");
  const scores = ["own score of its page", "of the served page"];
  const head = ["shadow", "policy", "ranked by", "pages", "replaced", "correlation", ...scores];
  const rows = shadows.map((s) => [
    ...[s.name, s.policy, rankedBy(s), count(s.pages), share(s.replaced)],
    ...[s.correlation, s.own_score, s.served_score].map(text),
  ]);
  return table("Shadow policies", head, rows);
}

function onlineTable(online) {
  if (!online) return note("No online learner runs beside this service.");
  const short = (value) => value.toPrecision(4);
  const estimate = ({ value, low, high } = {}) => {
    if (!Number.isFinite(value)) return "n/a";
    return short(value) + (Number.isFinite(low) ? ` (${short(low)} to ${short(high)})` : "");
  };
  const rows = newest(online.history).map((entry) => [
    ...[moment(entry.time), String(entry.action).replace("_", " "), entry.version],
    ...[count(entry.learned_from), estimate(entry.estimate ?? {})],
  ]);
  const state = facts([
    ["version", online.version],
    ["reference", online.reference],
    ["requests that it learns from", count(online.requests)],
    ["last look", moment(online.time)],
  ]);
  return h(
    "div",
    h("p.facts", state),
    online.error && h("p.bad", online.error),
    table("Online learner", ["time", "what", "version", "learned from", "estimate"], rows),
  );
}

function reloadTable(reloads) {
  const rows = newest(reloads).map(({ timestamp, artifact, policies, error }) => [
    ...[moment(timestamp), artifact, policies.join(", ")],
    h(error ? "span.bad" : "span.note", error ?? "none"),
  ]);
  return table("Reloads", ["time", "artifact", "policies", "fault"], rows);
}
