// Weights and lifts by the classes of a column.
import { intervalBar, reachOf, shareBar } from "./charts.js";
import { byId, count, h, percent, share, show, table, taskClass } from "./dom.js";
import { meanLift, meanOf } from "./replay.js";

// The policy's weights, and its lift over the baseline, by the classes of a column.
export function showColumns(model) {
  const { columns, weights, baseline, evaluation, names } = model.record;
  const { users, arms } = model.judged;
  const metric = ["value", "ndcg"].find((key) => !(key in evaluation.cannot_differ));
  const place = h("div", {});
  const draw = (number) => {
    const { name, labels, codes } = columns[number];
    const classes = labels
      .map((label, code) => {
        const rows = [...codes.keys()].filter((r) => codes[r] === code);
        const pick = (values) => rows.map((r) => values[r]);
        const means = model.tasks.map((_, t) =>
          meanOf(
            rows.map((r) => weights[names.policy][r * model.T + t]),
            pick(users),
          ),
        );
        const lift = metric
          ? meanLift(pick(arms[names.policy][metric]), pick(arms[baseline][metric]), pick(users))
          : null;
        return { label, n: rows.length, means, lift };
      })
      .filter(({ n }) => n > 0);
    const most = Math.max(...classes.flatMap(({ means }) => means.map(({ value }) => value)), 0.1);
    const reach = reachOf(classes.map(({ lift }) => lift));
    const cell = (mean, t) =>
      h(
        "td",
        {},
        h(
          "div",
          { class: "weight-cell" },
          h(
            "span",
            { class: "number" },
            share(mean.value),
            h("small", {}, Number.isFinite(mean.low) ? ` ± ${(50 * (mean.high - mean.low)).toFixed(1)}` : ""),
          ),
          shareBar(mean.value, taskClass(t), most),
        ),
      );
    const head = [
      name,
      "requests",
      ...model.tasks.map((task, t) => [h("i", { class: taskClass(t) }), task]),
      ...(metric ? [h("th", { scope: "col", colspan: 2 }, `${names.policy} over ${baseline}`)] : []),
    ];
    const rows = classes.map(({ label, n, means, lift }) => [
      label,
      count(n),
      means.map(cell),
      lift ? [percent(lift.value), intervalBar(lift, reach, label)] : [],
    ]);
    show(place, table("Weights by column", head, rows, { numbers: 1, className: "by-column" }));
  };
  if (!columns.length) {
    show(byId("columns"), h("p", { class: "note" }, "The log has no column with more than one value."));
    return;
  }
  const judged = metric
    ? ` The lift is of ${metric === "value" ? "value" : "NDCG"}@${model.k}; each interval covers alone, so one of twenty misses.`
    : "";
  show(
    byId("columns"),
    h(
      "label",
      {},
      "column",
      h(
        "select",
        { id: "column", onchange: (event) => draw(Number(event.target.value)) },
        columns.map(({ name }, i) => h("option", { value: i }, name)),
      ),
    ),
    place,
    h(
      "p",
      { class: "note" },
      `Mean weights of ${names.policy} on the judged requests, ± 95 %. Numbers are cut into quarters.${judged}`,
    ),
  );
  draw(0);
}
