// The replay of all rankings, and how well each task is predicted.
import { intervalBar, reachOf, scaleOf } from "./charts.js";
import { byId, count, h, percent, share, show, taskClass } from "./dom.js";

export function showReplay(model) {
  const { record } = model;
  const { evaluation } = record;
  const names = Object.keys(evaluation.rankers);
  const metrics = [
    ["value", `value@${record.k}`],
    ["ndcg", `NDCG@${record.k}`],
  ];
  const reaches = metrics.map(([key]) => reachOf(names.map((name) => evaluation.lifts[name]?.[key])));
  const rows = names.map((name) =>
    h(
      "tr",
      { class: name === evaluation.baseline ? "baseline" : "" },
      h("th", { scope: "row" }, name),
      metrics.flatMap(([key], m) => {
        const lift = evaluation.lifts[name]?.[key];
        const value = evaluation.rankers[name][key];
        const cell =
          name === evaluation.baseline
            ? h("span", { class: "note" }, "baseline")
            : intervalBar(lift, reaches[m], `${name}, ${key}`);
        return [
          h("td", { class: "number" }, value.value === null ? "n/a" : value.value.toFixed(3)),
          h("td", { class: "number" }, lift && lift.value !== null ? percent(lift.value) : ""),
          h("td", { class: "wide" }, cell),
        ];
      }),
    ),
  );
  const head = metrics.flatMap(([, name]) => [
    h("th", { scope: "col", class: "number" }, name),
    h("th", { scope: "col", class: "number" }, "lift"),
    h("th", { scope: "col" }, "95 % interval"),
  ]);
  const foot = reaches.flatMap((reach) => [h("td", { colspan: 2 }), h("td", { class: "wide" }, scaleOf(reach))]);
  const same = Object.entries(evaluation.cannot_differ)
    .filter(([key]) => key !== "predicted_value")
    .map(([key, why]) => h("p", { class: "note" }, `${key} cannot differ: ${why}.`));
  show(
    byId("replay"),
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Replay of all rankings" },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "ranking"), head)),
        h("tbody", {}, rows),
        h("tfoot", {}, h("tr", {}, h("td", {}), foot)),
      ),
    ),
    same,
    h(
      "p",
      { class: "note" },
      `${record.judged_by}. Re-orders what was shown; the intervals of one column cover all at once.`,
    ),
    predictions(model),
  );
}

function predictions(model) {
  const { predictions: tasks } = model.record.evaluation;
  const number = (text) => h("td", { class: "number" }, text);
  const auc = (entry) =>
    entry.value === null ? "n/a" : `${entry.value.toFixed(3)} ± ${((entry.high - entry.low) / 2).toFixed(3)}`;
  return h(
    "details",
    {},
    h("summary", {}, "How well each task is predicted"),
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Predictions" },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "task"),
            ["events", "rate", "predicted", "AUC", "GAUC"].map((name) =>
              h("th", { scope: "col", class: "number" }, name),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          model.tasks.map((task, t) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, h("i", { class: taskClass(t) }), task),
              number(count(tasks[task].events)),
              number(share(tasks[task].rate, 2)),
              number(share(tasks[task].mean_prediction, 2)),
              number(auc(tasks[task].auc)),
              number(auc(tasks[task].gauc)),
            ),
          ),
        ),
      ),
    ),
  );
}
