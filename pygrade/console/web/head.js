// The training's verdict, what later requests show, the facts of the run; and whether the page ranks as the core does.
import { intervalBar, reachOf } from "./charts.js";
import { byId, count, h, percent, range, show } from "./dom.js";

export function showHead(model) {
  const { record } = model;
  const { evaluation, names, policy } = record;
  const { verdict, later } = evaluation;
  document.title = `${record.title}: pygrade console`;
  byId("title").textContent = record.title;
  const beside = [verdict.detail, ...verdict.reasons].filter(Boolean);
  show(
    byId("verdict"),
    h("span", { class: `badge ${verdict.verdict}` }, verdict.verdict),
    h(
      "div",
      {},
      h("p", {}, verdict.sentence),
      beside.map((line) => h("small", {}, line)),
      h("small", { class: record.in_sample ? "later bad" : "later" }, later.text),
    ),
  );
  show(
    byId("warnings"),
    (evaluation.warnings ?? []).map((sentence) => h("li", {}, sentence)),
  );
  show(
    byId("about-run"),
    [
      [
        "requests",
        `${count(evaluation.num_requests)} ${{ true: "of the training", false: "held out", null: "of the log" }[record.in_sample]}`,
      ],
      ["users", count(evaluation.num_users)],
      ["policy", policy.version],
      ["serves", names.serves],
      ["pygrade", record.pygrade],
    ].map(([name, value]) => h("span", {}, `${name} `, h("b", {}, value))),
  );
  const lift = evaluation.lifts[later.name] ?? {};
  const metrics = [
    ["value", `value@${record.k}`],
    ["ndcg", `NDCG@${record.k}`],
  ];
  const reach = reachOf(metrics.map(([key]) => lift[key]));
  const cards = metrics.map(([key, name]) =>
    card(`${later.name}: ${name} over ${evaluation.baseline}`, lift[key], reach, evaluation.cannot_differ[key]),
  );
  show(byId("cards"), cards, h("div", { class: "card yours", id: "your-card" }));
}

function card(name, lift, reach, reason) {
  if (!lift || lift.value === null)
    return h(
      "div",
      { class: "card" },
      h("small", {}, name),
      h("b", {}, "n/a"),
      h("p", { class: "note" }, reason ?? "this ranking is the baseline"),
    );
  return h(
    "div",
    { class: "card" },
    h("small", {}, name),
    h("b", { class: "number" }, percent(lift.value)),
    intervalBar(lift, reach, name),
    h("p", { class: "note" }, range(lift)),
  );
}

export function showYourCard(model, lifts, over) {
  const judge = lifts.value ?? lifts.ndcg;
  const name = `your sliders: ${lifts.value ? "value" : "NDCG"}@${model.k} over ${over}`;
  show(byId("your-card"), [...card(name, judge, reachOf([judge]), "cannot differ on these pages").childNodes]);
}

export function showCheck(model) {
  const { same, all } = model.check();
  const good = same === all;
  show(
    byId("check"),
    h(
      "p",
      { class: good ? "good" : "bad" },
      good
        ? `✓ This page ranks all ${count(all)} candidates of ${count(model.arms.length)} rankings exactly as the C++ core does.`
        : `✗ ${count(all - same)} of ${count(all)} candidates rank elsewhere than in the C++ core: do not trust this page.`,
    ),
  );
  return good;
}
