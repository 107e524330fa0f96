// The service's state, /v1/status, polled where the page comes from a service; absent in a file.
import { intervalBar, reachOf, shareBar, sparkline } from "./charts.js";
import { count, h, percent, range, share, show, verdictOf } from "./dom.js";

const EVERY = 5000; // ms
const KEPT = 120; // polls in the small curves
const SHIFTED = [0.1, 0.25]; // PSI from which a prediction has moved, and is another one

export class Live {
  constructor(place) {
    this.place = place;
    this.history = [];
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
      if (!response.ok) throw new Error(response.status === 401 ? "a token is wanted: load the page again with it as the password" : `the service answers ${response.status}`);
      this.take(await response.json());
      this.place.hidden = false;
    } catch (error) {
      if (this.status === undefined && !(error instanceof TypeError)) this.place.hidden = false;
      this.tell(`no state since ${this.at ?? "the start"}: ${error.message}`);
    }
  }

  tell(text) {
    if (this.status === undefined) show(this.place, h("div", { class: "box" }, h("p", { class: "bad" }, text)));
    else this.place.querySelector(".state")?.replaceChildren(h("span", { class: "bad" }, text));
  }

  take(status) {
    const served = total(Object.values(status.requests?.rank ?? {}));
    const before = this.history.at(-1);
    const seconds = before ? (status.timestamp - before.time) / 1000 : 0;
    const rate = before && seconds > 0 ? Math.max(0, served - before.served) / seconds : NaN;
    this.history.push({ time: status.timestamp, served, rate, p99: status.latency?.rank?.p99 ?? NaN });
    this.history.splice(0, this.history.length - KEPT);
    this.status = status;
    this.at = new Date(status.timestamp).toISOString().slice(11, 19);
    this.draw();
  }

  draw() {
    const { status } = this;
    const focused = document.activeElement?.id;
    const ready = status.draining ? "draining" : "serving";
    show(this.place, h("div", { class: "box" },
      h("div", { class: "row" },
        h("h2", {}, "Live ", h("span", { class: `badge ${status.draining ? "worse" : "better"}` }, ready)),
        h("p", { class: "facts state" }, facts([["artifact", status.artifact], ["workers", status.workers], ["store", status.store], ["pygrade", status.version], ["at", `${this.at} UTC`]]))),
      this.cards(),
      this.part("arms", "Arms", armsTable(status)),
      this.part("latency", "Latency by step", latencyTable(status)),
      this.part("drift", "Drift of predictions, and weights", driftTable(status)),
      status.shadows?.length ? this.part("shadows", "Shadow policies", shadowTable(status)) : null,
      this.part("online", "Online learner", onlineTable(status.online)),
      this.part("reloads", "Reloads", reloadTable(status.reloads ?? []))));
    if (focused) document.getElementById(focused)?.focus();
  }

  cards() {
    const { latency = {}, degraded = {}, fallback = {}, requests = {} } = this.status;
    const { rate, p99 } = this.history.at(-1);
    const bad = (table) => total(Object.entries(table).filter(([name]) => name !== "none").map(([, value]) => value)) / Math.max(1, total(Object.values(table)));
    const failures = Object.values(requests).flatMap((codes) => Object.entries(codes)).filter(([code]) => code >= "500");
    const card = (name, value, note, curve) => h("div", { class: "card" }, h("small", {}, name), h("b", { class: "number" }, value), curve ? sparkline(curve, name) : null, h("p", { class: "note" }, note));
    return h("div", { class: "cards" },
      card("pages a second", Number.isFinite(rate) ? rate.toFixed(1) : "…", `${count(this.history.at(-1).served)} since the start`, this.history.map((entry) => entry.rate)),
      card("p99 of rank", milliseconds(p99), `p50 ${milliseconds(latency.rank?.p50)}, p99.9 ${milliseconds(latency.rank?.p999)}`, this.history.map((entry) => entry.p99)),
      card("degraded pages", share(bad(degraded), 2), Object.entries(degraded).filter(([name]) => name !== "none").map(([name, value]) => `${name} ${count(value)}`).join(", ")),
      card("static weights", share(bad(fallback), 2), "pages without the user's features"),
      card("answers 5xx", count(total(failures.map(([, value]) => value))), "of all endpoints"));
  }

  part(id, title, content) {
    if (!this.parts.has(id)) {
      const body = h("div", {});
      this.parts.set(id, { body, details: h("details", { open: id === "arms" }, h("summary", { id: `live-${id}` }, title), body) });
    }
    const { details, body } = this.parts.get(id);
    show(body, content);
    return details;
  }
}

function total(values) {
  return values.reduce((sum, value) => sum + (value ?? 0), 0);
}

function facts(pairs) {
  return pairs.map(([name, value]) => h("span", {}, `${name} `, h("b", {}, String(value ?? "n/a"))));
}

function milliseconds(seconds) {
  if (!Number.isFinite(seconds ?? NaN)) return "n/a";
  const value = 1000 * seconds;
  return `${value < 10 ? value.toFixed(2) : value.toFixed(0)} ms`;
}

function table(name, head, rows, numbers = head.length) {
  if (!rows.length) return h("p", { class: "note" }, "nothing yet");
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, h("table", {},
    h("thead", {}, h("tr", {}, head.map((text, i) => h("th", { scope: "col", class: i > 0 && i <= numbers ? "number" : "" }, text)))),
    h("tbody", {}, rows.map(([first, ...rest]) => h("tr", {}, h("th", { scope: "row" }, first), rest.map((cell) =>
      (cell instanceof Node ? h("td", { class: "wide" }, cell) : h("td", { class: "number" }, String(cell)))))))));
}

function lively(entry) {
  return entry?.anytime ?? entry?.corrected ?? null;
}

function armsTable(status) {
  const reading = status.online?.arms ?? null;
  const lifts = reading?.lifts ?? {};
  const values = Object.fromEntries(Object.entries(lifts).map(([name, entry]) => [name, lively(entry.value)]));
  const reach = reachOf(Object.values(values));
  const rows = status.arms.map((arm) => {
    const lift = values[arm.name];
    const control = reading && arm.name === reading.control;
    return [arm.name, share(arm.share, 0), arm.policy, share(arm.trust, 0), count(arm.pages), count(arm.explored), count(arm.effective_samples?.narrower ?? 0),
      reading ? count(reading.users?.[arm.name] ?? 0) : "n/a", lift ? percent(lift.value) : control ? "control" : "n/a", lift ? intervalBar(lift, reach, arm.name) : h("span", { class: "note" }, lift || control ? "" : "no lift yet")];
  });
  const head = ["arm", "share", "policy", "trust", "pages", "explored", "ESS", "users", "value lift", "anytime-valid 95 % interval"];
  const byTask = Object.entries(lifts).flatMap(([arm, entry]) => Object.entries(entry).filter(([name]) => name !== "value").map(([name, found]) => [arm, name, lively(found)]));
  const taskReach = reachOf(byTask.map(([, , lift]) => lift));
  return h("div", {}, table("Arms", head, rows, 8),
    byTask.length ? table("Lifts by task", ["arm", "task", "lift", "anytime-valid 95 % interval"], byTask.map(([arm, name, lift]) => [arm, name, lift ? percent(lift.value) : "n/a", lift ? intervalBar(lift, taskReach, `${arm} ${name}`) : h("span")]), 2) : null,
    h("p", { class: "note" }, reading?.reason ? `No lifts: ${reading.reason}.` : "Each user counts once, in the arm that served them first; the intervals hold at any time. ESS: of the explored pages, for a policy that explores half as widely."));
}

function latencyTable({ latency = {}, steps = {} }) {
  const entries = [...Object.entries(latency).map(([name, entry]) => [`all of ${name}`, entry]), ...Object.entries(steps)].filter(([, entry]) => entry.count > 0);
  const most = Math.max(...entries.map(([, { p99 }]) => p99 ?? 0), 1e-9);
  return table("Latency", ["step", "count", "p50", "p90", "p99", "p99.9", ""], entries.map(([name, entry]) =>
    [name, count(entry.count), ...["p50", "p90", "p99", "p999"].map((q) => milliseconds(entry[q])), shareBar(entry.p99 ?? 0, "task task-0", most)]), 5);
}

function driftTable({ drift = {}, weights = [], tasks = [] }) {
  const word = (index) => (index >= SHIFTED[1] ? "another distribution" : index >= SHIFTED[0] ? "moved" : "stable");
  const rows = tasks.map((task) => {
    const index = drift[task];
    const known = Number.isFinite(index ?? NaN);
    return [task, known ? index.toFixed(3) : "n/a", h("span", { class: known && index >= SHIFTED[1] ? "bad" : "note" }, known ? word(index) : "too few predictions"), shareBar(known ? Math.min(index, 0.5) : 0, "task task-1", 0.5)];
  });
  const means = weights.map(({ scenario, pages, mean, sd }) => [scenario || "(none)", count(pages), ...tasks.map((task) => `${share(mean[task])} ± ${(100 * (sd[task] ?? 0)).toFixed(1)}`)]);
  return h("div", {}, table("Drift", ["task", "PSI", "", ""], rows, 1), h("p", { class: "note" }, "PSI of the predictions against those that the policy was trained on."),
    table("Weights by scenario", ["scenario", "pages", ...tasks], means), h("p", { class: "note" }, "Mean and standard deviation of the weights that are served."));
}

function shadowTable({ shadows }) {
  const text = (value, digits = 3) => (Number.isFinite(value ?? NaN) ? value.toFixed(digits) : "n/a");
  return table("Shadow policies", ["shadow", "policy", "trust", "pages", "replaced", "correlation", "own score of its page", "of the served page"],
    shadows.map((s) => [s.name, s.policy, share(s.trust, 0), count(s.pages), share(s.replaced ?? NaN), text(s.correlation), text(s.own_score), text(s.served_score)]));
}

function onlineTable(online) {
  if (!online) return h("p", { class: "note" }, "No online learner runs beside this service.");
  const time = (ms) => (ms ? new Date(ms).toISOString().slice(0, 19).replace("T", " ") : "n/a");
  const estimate = (entry) => (entry && Number.isFinite(entry.value ?? NaN) ? `${entry.value.toPrecision(4)}${Number.isFinite(entry.low ?? NaN) ? ` (${entry.low.toPrecision(4)} to ${entry.high.toPrecision(4)})` : ""}` : "n/a");
  const history = [...(online.history ?? [])].reverse().slice(0, 20);
  return h("div", {},
    h("p", { class: "facts" }, facts([["version", online.version], ["reference", online.reference], ["requests that it learns from", count(online.requests)], ["last look", time(online.time)], ["learning", online.learning === false ? "off" : "on"]])),
    online.error ? h("p", { class: "bad" }, online.error) : null,
    table("Online learner", ["time", "what", "version", "learned from", "estimate"], history.map((entry) => [time(entry.time), String(entry.action).replace("_", " "), entry.version, count(entry.learned_from), estimate(entry.estimate)])));
}

function reloadTable(reloads) {
  const time = (ms) => new Date(ms).toISOString().slice(0, 19).replace("T", " ");
  return table("Reloads", ["time", "artifact", "policies", "fault"], [...reloads].reverse().slice(0, 20).map((entry) => [time(entry.timestamp), entry.artifact, entry.policies.join(", "), h("span", { class: entry.error ? "bad" : "note" }, entry.error ?? "none")]));
}
