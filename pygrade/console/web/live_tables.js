// Tables of the service's state.
import { intervalBar, reachOf, shareBar } from "./charts.js";
import { count, facts, h, note, percent, share, table } from "./dom.js";

const SHIFTED = [0.1, 0.25]; // PSI from which a prediction has moved, and is another one
const LISTED = 20; // newest entries of a history

export function total(values) {
  return values.reduce((sum, value) => sum + (value ?? 0), 0);
}

export function milliseconds(seconds) {
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

function lively(entry) {
  return entry?.anytime ?? entry?.corrected ?? null;
}

export function armsTable(status) {
  const reading = status.online?.arms ?? null;
  const lifts = reading?.lifts ?? {};
  const values = Object.fromEntries(Object.entries(lifts).map(([name, entry]) => [name, lively(entry.value)]));
  const reach = reachOf(Object.values(values));
  const rows = status.arms.map((arm) => {
    const lift = values[arm.name];
    const control = reading && arm.name === reading.control;
    return [
      ...[arm.name, share(arm.share, 0), arm.policy, share(arm.trust, 0), count(arm.pages), count(arm.explored)],
      count(arm.effective_samples?.narrower ?? 0),
      reading ? count(reading.users?.[arm.name] ?? 0) : "n/a",
      lift ? percent(lift.value) : control ? "control" : "n/a",
      lift ? intervalBar(lift, reach, arm.name) : h("span.note", control ? "" : "no lift yet"),
    ];
  });
  const interval = "anytime-valid 95 % interval";
  const columns = ["arm", "share", "policy", "trust", "pages", "explored", "ESS", "users", "value lift", interval];
  const tasks = Object.entries(lifts).flatMap(([arm, entry]) => {
    const others = Object.entries(entry).filter(([name]) => name !== "value");
    return others.map(([name, found]) => [arm, name, lively(found)]);
  });
  const taskReach = reachOf(tasks.map(([, , lift]) => lift));
  const taskRows = tasks.map(([arm, name, lift]) => [
    ...[arm, name, lift ? percent(lift.value) : "n/a"],
    lift ? intervalBar(lift, taskReach, `${arm} ${name}`) : h("span"),
  ]);
  const sentences = status.arms.filter((arm) => arm.sentence);
  const undecidable = Object.entries(lifts).flatMap(([arm, entry]) =>
    Object.entries(entry).flatMap(([name, found]) =>
      found.undecidable ? [note(h("b", `${arm}, ${name}: `), `not decidable: ${found.undecidable}.`)] : [],
    ),
  );
  return h(
    "div",
    table("Arms", columns, rows, { numbers: 8 }),
    sentences.map((arm) => note(h("b", `${arm.name}: `), arm.sentence)),
    undecidable,
    taskRows.length > 0 && table("Lifts by task", ["arm", "task", "lift", interval], taskRows, { numbers: 2 }),
    note(
      reading?.reason
        ? `No lifts: ${reading.reason}.`
        : "Each user counts once, in the arm that served them first; the intervals hold at any time. ESS: of the explored pages, for a policy that explores half as widely.",
    ),
  );
}

export function latencyTable({ latency = {}, steps = {} }) {
  const whole = Object.entries(latency).map(([name, entry]) => [`all of ${name}`, entry]);
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

export function driftTable({ drift = {}, weights = [], tasks = [] }) {
  const word = (index) => (index >= SHIFTED[1] ? "another distribution" : index >= SHIFTED[0] ? "moved" : "stable");
  const rows = tasks.map((task) => {
    const index = drift[task];
    const known = Number.isFinite(index);
    const text = known ? word(index) : "no reference, or too few predictions";
    return [
      ...[task, known ? index.toFixed(3) : "n/a", h(index >= SHIFTED[1] ? "span.bad" : "span.note", text)],
      shareBar(known ? Math.min(index, 0.5) : 0, "task task-1", 0.5),
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

export function shadowTable({ shadows }) {
  const text = (value) => (Number.isFinite(value) ? value.toFixed(3) : "n/a");
  const scores = ["own score of its page", "of the served page"];
  const head = ["shadow", "policy", "trust", "pages", "replaced", "correlation", ...scores];
  const rows = shadows.map((s) => [
    ...[s.name, s.policy, share(s.trust, 0), count(s.pages), share(s.replaced)],
    ...[text(s.correlation), text(s.own_score), text(s.served_score)],
  ]);
  return table("Shadow policies", head, rows);
}

export function onlineTable(online) {
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
    ["learning", online.learning === false ? "off" : "on"],
  ]);
  return h(
    "div",
    h("p.facts", state),
    online.error && h("p.bad", online.error),
    table("Online learner", ["time", "what", "version", "learned from", "estimate"], rows),
  );
}

export function reloadTable(reloads) {
  const rows = newest(reloads).map(({ timestamp, artifact, policies, error }) => [
    ...[moment(timestamp), artifact, policies.join(", ")],
    h(error ? "span.bad" : "span.note", error ?? "none"),
  ]);
  return table("Reloads", ["time", "artifact", "policies", "fault"], rows);
}
