// Weights and lifts by the classes of a column.
import { intervalBar, reachOf, shareBar } from "./charts.js";
import { byId, count, h, note, percent, select, share, show, table, taskClass, taskMark } from "./dom.js";
import { meanLift, meanOf } from "./replay.js";

// The policy's weights, and its lift over the baseline, by the classes of a column.
export function showColumns(model) {
  const { columns, evaluation, names } = model.record;
  if (!columns.length) {
    show(byId("columns"), note("The log has no column with more than one value."));
    return;
  }
  const metric = ["value", "ndcg"].find((key) => !(key in evaluation.cannot_differ));
  const place = h("div");
  const draw = (number) => show(place, tableOf(model, columns[number], metric));
  const judged = metric
    ? ` The lift is of ${metric === "value" ? "value" : "NDCG"}@${model.k}; each interval covers alone, so one of twenty misses.`
    : "";
  const choice = select(
    columns.map(({ name }) => name),
    draw,
    { id: "column" },
  );
  const text = `Mean weights of ${names.policy} on the judged requests, ± 95 %. Numbers are cut into quarters.`;
  show(byId("columns"), h("label", "column", choice), place, note(text + judged));
  draw(0);
}

function tableOf(model, { name, labels, codes }, metric) {
  const { weights, baseline, names } = model.record;
  const { users, arms } = model.judged;
  const classes = labels
    .map((label, code) => {
      const rows = [...codes.keys()].filter((r) => codes[r] === code);
      const pick = (values) => rows.map((r) => values[r]);
      const weight = (t) => rows.map((r) => weights[names.policy][r * model.T + t]);
      const means = model.tasks.map((_, t) => meanOf(weight(t), pick(users)));
      const lift = metric && meanLift(pick(arms[names.policy][metric]), pick(arms[baseline][metric]), pick(users));
      return { label, n: rows.length, means, lift };
    })
    .filter(({ n }) => n > 0);
  const most = Math.max(...classes.flatMap(({ means }) => means.map(({ value }) => value)), 0.1);
  const reach = reachOf(classes.map(({ lift }) => lift));
  const cell = ({ value, low, high }, t) => {
    const error = h("small", Number.isFinite(low) ? ` ± ${(50 * (high - low)).toFixed(1)}` : "");
    return h("td", h("div.weight-cell", h("span.number", share(value), error), shareBar(value, taskClass(t), most)));
  };
  const head = [name, "requests", ...model.tasks.map((task, t) => [taskMark(t), task])];
  if (metric) head.push(h("th", { scope: "col", colspan: 2 }, `${names.policy} over ${baseline}`));
  const rows = classes.map(({ label, n, means, lift }) => [
    label,
    count(n),
    means.map(cell),
    lift ? [percent(lift.value), intervalBar(lift, reach, label)] : [],
  ]);
  return table("Weights by column", head, rows, { numbers: 1, className: "by-column" });
}
