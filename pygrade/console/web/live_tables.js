// Tables of the service's state.
import { intervalBar, reachOf, shareBar } from "./charts.js";
import { count, facts, h, percent, share, table } from "./dom.js";

const SHIFTED = [0.1, 0.25]; // PSI from which a prediction has moved, and is another one

export function total(values) {
  return values.reduce((sum, value) => sum + (value ?? 0), 0);
}

export function milliseconds(seconds) {
  if (!Number.isFinite(seconds ?? NaN)) return "n/a";
  const value = 1000 * seconds;
  return value < 0.1 ? `${(1000 * value).toFixed(0)} µs` : `${value.toFixed(value < 10 ? 2 : 0)} ms`;
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
      arm.name,
      share(arm.share, 0),
      arm.policy,
      share(arm.trust, 0),
      count(arm.pages),
      count(arm.explored),
      count(arm.effective_samples?.narrower ?? 0),
      reading ? count(reading.users?.[arm.name] ?? 0) : "n/a",
      lift ? percent(lift.value) : control ? "control" : "n/a",
      lift ? intervalBar(lift, reach, arm.name) : h("span", { class: "note" }, lift || control ? "" : "no lift yet"),
    ];
  });
  const head = [
    "arm",
    "share",
    "policy",
    "trust",
    "pages",
    "explored",
    "ESS",
    "users",
    "value lift",
    "anytime-valid 95 % interval",
  ];
  const byTask = Object.entries(lifts).flatMap(([arm, entry]) =>
    Object.entries(entry)
      .filter(([name]) => name !== "value")
      .map(([name, found]) => [arm, name, lively(found)]),
  );
  const taskReach = reachOf(byTask.map(([, , lift]) => lift));
  return h(
    "div",
    {},
    table("Arms", head, rows, { numbers: 8 }),
    status.arms
      .filter((arm) => arm.sentence)
      .map((arm) => h("p", { class: "note" }, h("b", {}, `${arm.name}: `), arm.sentence)),
    byTask.length
      ? table(
          "Lifts by task",
          ["arm", "task", "lift", "anytime-valid 95 % interval"],
          byTask.map(([arm, name, lift]) => [
            arm,
            name,
            lift ? percent(lift.value) : "n/a",
            lift ? intervalBar(lift, taskReach, `${arm} ${name}`) : h("span"),
          ]),
          { numbers: 2 },
        )
      : null,
    h(
      "p",
      { class: "note" },
      reading?.reason
        ? `No lifts: ${reading.reason}.`
        : "Each user counts once, in the arm that served them first; the intervals hold at any time. ESS: of the explored pages, for a policy that explores half as widely.",
    ),
  );
}

export function latencyTable({ latency = {}, steps = {} }) {
  const entries = [
    ...Object.entries(latency).map(([name, entry]) => [`all of ${name}`, entry]),
    ...Object.entries(steps),
  ].filter(([, entry]) => entry.count > 0);
  const most = Math.max(...entries.map(([, { p99 }]) => p99 ?? 0), 1e-9);
  return table(
    "Latency",
    ["step", "count", "p50", "p90", "p99", "p99.9", ""],
    entries.map(([name, entry]) => [
      name,
      count(entry.count),
      ...["p50", "p90", "p99", "p999"].map((q) => milliseconds(entry[q])),
      shareBar(entry.p99 ?? 0, "task task-0", most),
    ]),
    { numbers: 5 },
  );
}

export function driftTable({ drift = {}, weights = [], tasks = [] }) {
  const word = (index) => (index >= SHIFTED[1] ? "another distribution" : index >= SHIFTED[0] ? "moved" : "stable");
  const rows = tasks.map((task) => {
    const index = drift[task];
    const known = Number.isFinite(index ?? NaN);
    return [
      task,
      known ? index.toFixed(3) : "n/a",
      h(
        "span",
        { class: known && index >= SHIFTED[1] ? "bad" : "note" },
        known ? word(index) : "no reference, or too few predictions",
      ),
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
    {},
    table("Drift", ["task", "PSI", "", ""], rows, { numbers: 1 }),
    h("p", { class: "note" }, "PSI of the predictions against those that the policy was trained on."),
    table("Weights by scenario", ["scenario", "pages", ...tasks], means),
    h("p", { class: "note" }, "Mean and standard deviation of the weights that are served."),
  );
}

export function shadowTable({ shadows }) {
  const text = (value, digits = 3) => (Number.isFinite(value ?? NaN) ? value.toFixed(digits) : "n/a");
  return table(
    "Shadow policies",
    ["shadow", "policy", "trust", "pages", "replaced", "correlation", "own score of its page", "of the served page"],
    shadows.map((s) => [
      s.name,
      s.policy,
      share(s.trust, 0),
      count(s.pages),
      share(s.replaced ?? NaN),
      text(s.correlation),
      text(s.own_score),
      text(s.served_score),
    ]),
  );
}

export function onlineTable(online) {
  if (!online) return h("p", { class: "note" }, "No online learner runs beside this service.");
  const time = (ms) => (ms ? new Date(ms).toISOString().slice(0, 19).replace("T", " ") : "n/a");
  const estimate = (entry) =>
    entry && Number.isFinite(entry.value ?? NaN)
      ? `${entry.value.toPrecision(4)}${Number.isFinite(entry.low ?? NaN) ? ` (${entry.low.toPrecision(4)} to ${entry.high.toPrecision(4)})` : ""}`
      : "n/a";
  const history = [...(online.history ?? [])].reverse().slice(0, 20);
  return h(
    "div",
    {},
    h(
      "p",
      { class: "facts" },
      facts([
        ["version", online.version],
        ["reference", online.reference],
        ["requests that it learns from", count(online.requests)],
        ["last look", time(online.time)],
        ["learning", online.learning === false ? "off" : "on"],
      ]),
    ),
    online.error ? h("p", { class: "bad" }, online.error) : null,
    table(
      "Online learner",
      ["time", "what", "version", "learned from", "estimate"],
      history.map((entry) => [
        time(entry.time),
        String(entry.action).replace("_", " "),
        entry.version,
        count(entry.learned_from),
        estimate(entry.estimate),
      ]),
    ),
  );
}

export function reloadTable(reloads) {
  const time = (ms) => new Date(ms).toISOString().slice(0, 19).replace("T", " ");
  return table(
    "Reloads",
    ["time", "artifact", "policies", "fault"],
    [...reloads]
      .reverse()
      .slice(0, 20)
      .map((entry) => [
        time(entry.timestamp),
        entry.artifact,
        entry.policies.join(", "),
        h("span", { class: entry.error ? "bad" : "note" }, entry.error ?? "none"),
      ]),
  );
}
