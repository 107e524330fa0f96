// The sections below the pages: replay of all rankings, the front, weights by column, how much the pages change.
import { intervalBar, reachOf, scaleOf, scatter, shareBar } from "./charts.js";
import { byId, count, h, percent, range, share, show, taskClass, verdictOf } from "./dom.js";
import { meanOf } from "./replay.js";

export function showHead(model) {
  const { record } = model;
  const { evaluation, policy } = record;
  const { verdict } = evaluation;
  document.title = `${record.title}: pygrade console`;
  byId("title").textContent = record.title;
  const word = record.in_sample ? "in-sample" : verdict.verdict;
  show(byId("verdict"), h("span", { class: `badge ${word}` }, word), h("p", {}, verdict.sentence));
  const served = policy.trust === 1 ? "GRADE alone" : policy.trust === 0 ? `${record.baseline} alone (trust 0)` : `${share(policy.trust, 0)} GRADE, ${share(1 - policy.trust, 0)} ${record.baseline}`;
  show(byId("about-run"), [
    ["requests", `${count(evaluation.num_requests)} ${record.in_sample ? "of the training" : "held out"}`], ["users", count(evaluation.num_users)],
    ["policy", policy.version], ["serves", served], ["pygrade", record.pygrade],
  ].map(([name, value]) => h("span", {}, `${name} `, h("b", {}, value))));
  const lift = evaluation.lifts[verdict.name] ?? {};
  const metrics = [["value", `value@${record.k}`], ["ndcg", `NDCG@${record.k}`]];
  const reach = reachOf(metrics.map(([key]) => lift[key]));
  const cards = metrics.map(([key, name]) => card(`${verdict.name}: ${name} over ${evaluation.baseline}`, lift[key], reach, evaluation.cannot_differ[key]));
  show(byId("cards"), cards, h("div", { class: "card yours", id: "your-card" }));
}

function card(name, lift, reach, reason) {
  if (!lift || lift.value === null) return h("div", { class: "card" }, h("small", {}, name), h("b", {}, "n/a"), h("p", { class: "note" }, reason ?? "this ranking is the baseline"));
  return h("div", { class: "card" }, h("small", {}, name), h("b", { class: "number" }, percent(lift.value)), intervalBar(lift, reach, name), h("p", { class: "note" }, range(lift)));
}

export function showYourCard(model, lifts, over) {
  const judge = lifts.value ?? lifts.ndcg;
  const name = `your sliders: ${lifts.value ? "value" : "NDCG"}@${model.k} over ${over}`;
  show(byId("your-card"), [...card(name, judge, reachOf([judge]), "cannot differ on these pages").childNodes]);
}

export function showReplay(model) {
  const { record } = model;
  const { evaluation } = record;
  const names = Object.keys(evaluation.rankers);
  const metrics = [["value", `value@${record.k}`], ["ndcg", `NDCG@${record.k}`]];
  const reaches = metrics.map(([key]) => reachOf(names.map((name) => evaluation.lifts[name]?.[key])));
  const rows = names.map((name) => h("tr", { class: name === evaluation.baseline ? "baseline" : "" }, h("th", { scope: "row" }, name),
    metrics.flatMap(([key], m) => {
      const lift = evaluation.lifts[name]?.[key];
      const value = evaluation.rankers[name][key];
      const cell = name === evaluation.baseline ? h("span", { class: "note" }, "baseline") : intervalBar(lift, reaches[m], `${name}, ${key}`);
      return [h("td", { class: "number" }, value.value === null ? "n/a" : value.value.toFixed(3)),
        h("td", { class: "number" }, lift && lift.value !== null ? percent(lift.value) : ""), h("td", { class: "wide" }, cell)];
    })));
  const head = metrics.flatMap(([, name]) => [h("th", { scope: "col", class: "number" }, name), h("th", { scope: "col", class: "number" }, "lift"), h("th", { scope: "col" }, "95 % interval")]);
  const foot = reaches.flatMap((reach) => [h("td", { colspan: 2 }), h("td", { class: "wide" }, scaleOf(reach))]);
  const same = Object.entries(evaluation.cannot_differ).filter(([key]) => key !== "predicted_value").map(([key, why]) => h("p", { class: "note" }, `${key} cannot differ: ${why}.`));
  show(byId("replay"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Replay of all rankings" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "ranking"), head)), h("tbody", {}, rows), h("tfoot", {}, h("tr", {}, h("td", {}), foot)))),
  same, h("p", { class: "note" }, `${record.judged_by}. Re-orders what was shown; the intervals of one column cover all at once.`), predictions(model));
}

function predictions(model) {
  const { predictions: tasks } = model.record.evaluation;
  const number = (text) => h("td", { class: "number" }, text);
  const auc = (entry) => (entry.value === null ? "n/a" : `${entry.value.toFixed(3)} ± ${((entry.high - entry.low) / 2).toFixed(3)}`);
  return h("details", {}, h("summary", {}, "How well each task is predicted"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Predictions" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "task"), ["events", "rate", "predicted", "AUC", "GAUC"].map((name) => h("th", { scope: "col", class: "number" }, name)))),
    h("tbody", {}, model.tasks.map((task, t) => h("tr", {}, h("th", { scope: "row" }, h("i", { class: taskClass(t) }), task),
      number(count(tasks[task].events)), number(share(tasks[task].rate, 2)), number(share(tasks[task].mean_prediction, 2)), number(auc(tasks[task].auc)), number(auc(tasks[task].gauc))))))));
}

// The front: two tasks to choose, and points that set the sliders.
export class Front {
  constructor(model, choose) {
    this.model = model;
    this.choose = choose;
    this.front = model.record.front;
    byId("front-section").hidden = this.front === null;
    if (this.front === null) return;
    const names = [...this.front.tasks, "value"];
    [this.x, this.y] = names;
    const select = (axis) => h("label", {}, `${axis} axis`, h("select", { id: `front-${axis}`, onchange: (event) => { this[axis] = event.target.value; this.draw(); } },
      names.map((name) => h("option", { value: name, selected: name === this[axis] }, name))));
    this.plot = h("div", { class: "plot" });
    show(byId("front"), h("div", { class: "buttons" }, select("x"), select("y")), this.plot,
      h("p", { class: "note" }, `Events over production, ${count(this.front.num_requests)} requests, estimated by position and model. A point sets the sliders to its multipliers.`));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  draw() {
    const { marks, knobs, paths } = this.front;
    const made = (point, name, kind) => ({
      x: point.events[this.x], y: point.events[this.y], name, kind,
      onclick: point.values ? () => this.choose(this.model.tasks.map((task) => point.values[task])) : null,
    });
    const text = (values) => Object.entries(values).filter(([, u]) => u !== 1).map(([task, u]) => `${task} × ${u.toFixed(2)}`).join(", ");
    const lines = paths.map(([, , points]) => points.map((point) => made(point, text(point.values), "path")));
    const points = [...lines.flat(), ...Object.entries(knobs).map(([name, point]) => made(point, name, "knob")),
      ...Object.entries(marks).map(([name, point]) => made(point, name, "mark")),
      { x: { value: 0 }, y: { value: 0 }, name: "production", kind: "mark", onclick: null }];
    const known = (point) => Number.isFinite(point.x?.value) && Number.isFinite(point.y?.value);
    const active = document.activeElement?.closest?.(".point") ? [...this.plot.querySelectorAll(".point[tabindex]")].indexOf(document.activeElement) : -1;
    show(this.plot, scatter(points.filter(known), lines.map((line) => line.filter(known)), Math.max(this.plot.clientWidth, 280), { x: this.x, y: this.y }));
    if (active >= 0) this.plot.querySelectorAll(".point[tabindex]")[active]?.focus();
  }
}

// GRADE's weights by the classes of a column.
export function showColumns(model) {
  const { columns, weights } = model.record;
  const served = weights.GRADE;
  const table = h("div", {});
  const draw = (number) => {
    const { labels, codes } = columns[number];
    const { users } = model.judged;
    const cells = labels.map((label, code) => {
      const rows = [...codes.keys()].filter((r) => codes[r] === code);
      const means = model.tasks.map((_, t) => meanOf(rows.map((r) => served[r * model.T + t]), rows.map((r) => users[r])));
      return { label, n: rows.length, means };
    }).filter(({ n }) => n > 0);
    const most = Math.max(...cells.flatMap(({ means }) => means.map(({ value }) => value)), 0.1);
    show(table, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Weights by column" }, h("table", { class: "by-column" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, columns[number].name), h("th", { scope: "col", class: "number" }, "requests"),
        model.tasks.map((task, t) => h("th", { scope: "col" }, h("i", { class: taskClass(t) }), task)))),
      h("tbody", {}, cells.map(({ label, n, means }) => h("tr", {}, h("th", { scope: "row" }, label), h("td", { class: "number" }, count(n)),
        means.map((mean, t) => h("td", {}, h("div", { class: "weight-cell", title: Number.isFinite(mean.low) ? `± ${share((mean.high - mean.low) / 2)}` : "interval unknown" },
          h("span", { class: "number" }, share(mean.value), h("small", {}, Number.isFinite(mean.low) ? ` ± ${(50 * (mean.high - mean.low)).toFixed(1)}` : "")),
          shareBar(mean.value, taskClass(t), most))))))))));
  };
  if (!columns.length) {
    show(byId("columns"), h("p", { class: "note" }, "The log has no column with more than one value."));
    return;
  }
  show(byId("columns"), h("label", {}, "column", h("select", { id: "column", onchange: (event) => draw(Number(event.target.value)) },
    columns.map(({ name }, i) => h("option", { value: i }, name)))), table,
  h("p", { class: "note" }, "Mean weights that GRADE serves on the held-out requests, ± 95 %. Numbers are cut into quarters."));
  draw(0);
}

// How much of the first k differs between rankings.
export function showChanges(model, yours) {
  const arms = [...model.arms, yours];
  const name = (arm) => (arm === yours ? "your sliders" : arm.name);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const rows = arms.map((arm) => h("tr", {}, h("th", { scope: "row" }, name(arm)), arms.map((other) => {
    const value = mean(model.replaced(arm.pages, other.pages));
    return arm === other ? h("td", { class: "number none" }, "–") : h("td", { class: "number heat", style: { "--heat": value.toFixed(3) } }, share(value, 0));
  })));
  const against = model.arms[0];
  const changed = model.replaced(yours.pages, against.pages);
  const steps = [[0, 0, "none"], [0.001, 0.2, "up to 20 %"], [0.2001, 0.4, "20 to 40 %"], [0.4001, 0.6, "40 to 60 %"], [0.6001, 1, "more"]];
  const histogram = steps.map(([low, high, label]) => ({ label, n: [...changed].filter((value) => value >= low && value <= high).length }));
  const most = Math.max(...histogram.map(({ n }) => n));
  show(byId("changes"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Share of the page replaced" }, h("table", { class: "heats" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "of the page of"), arms.map((arm) => h("th", { scope: "col", class: "number" }, `not in ${name(arm)}`)))), h("tbody", {}, rows))),
  h("h3", {}, `Requests by the share that your sliders replace of ${against.name}'s page`),
  h("table", { class: "bars" }, h("tbody", {}, histogram.map(({ label, n }) => h("tr", {}, h("th", { scope: "row" }, label), h("td", { class: "wide" }, shareBar(n, "task task-0", most)), h("td", { class: "number" }, count(n)))))),
  h("p", { class: "note" }, `${count(model.requests)} requests, first ${model.k} ranks.`));
}

export function showCheck(model) {
  const { same, all } = model.check();
  const good = same === all;
  show(byId("check"), h("p", { class: good ? "good" : "bad" }, good
    ? `✓ This page ranks all ${count(all)} candidates of ${count(model.arms.length)} rankings exactly as the C++ core does.`
    : `✗ ${count(all - same)} of ${count(all)} candidates rank elsewhere than in the C++ core: do not trust this page.`));
  return good;
}
