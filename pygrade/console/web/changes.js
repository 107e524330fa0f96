// How much the rankings' pages differ.
import { shareBar } from "./charts.js";
import { byId, count, h, share, show, table } from "./dom.js";

// How much of the first k differs between rankings.
export function showChanges(model, yours) {
  const arms = [...model.arms, yours];
  const name = (arm) => (arm === yours ? "your sliders" : arm.name);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const shares = arms.map((arm) => arms.map((other) => mean(model.replaced(arm.pages, other.pages))));
  const highest = Math.max(...shares.flat(), 0.01);
  const heat = (value) =>
    h("td", { class: "number heat", style: { "--heat": (value / highest).toFixed(3) } }, share(value, 0));
  const rows = arms.map((arm, i) => [name(arm), shares[i].map((value, j) => (i === j ? "–" : heat(value)))]);
  const against = model.arms[0];
  const changed = model.replaced(yours.pages, against.pages);
  const steps = [
    [0, 0, "none"],
    [0.001, 0.2, "up to 20 %"],
    [0.2001, 0.4, "20 to 40 %"],
    [0.4001, 0.6, "40 to 60 %"],
    [0.6001, 1, "more"],
  ];
  const histogram = steps.map(([low, high, label]) => ({
    label,
    n: [...changed].filter((value) => value >= low && value <= high).length,
  }));
  const most = Math.max(...histogram.map(({ n }) => n));
  show(
    byId("changes"),
    table("Share of the page replaced", ["of the page of", ...arms.map((arm) => `not in ${name(arm)}`)], rows, {
      className: "heats",
    }),
    h("h3", {}, `Requests by the share that your sliders replace of ${against.name}'s page`),
    table(
      "Requests by the share replaced",
      [],
      histogram.map(({ label, n }) => [label, shareBar(n, "task task-0", most), count(n)]),
      { className: "bars" },
    ),
    h("p", { class: "note" }, `${count(model.requests)} requests, first ${model.k} ranks.`),
  );
}
