// How much the rankings' pages differ.
import { shareBar } from "./charts.js";
import { byId, count, h, note, share, show, table } from "./dom.js";

const STEPS = [
  [0, "none"],
  [0.2, "up to 20 %"],
  [0.4, "20 to 40 %"],
  [0.6, "40 to 60 %"],
  [1, "more"],
];

// How much of the first k differs between rankings.
export function showChanges(model, yours) {
  const arms = [...model.arms, yours];
  const names = arms.map((arm) => (arm === yours ? "your sliders" : arm.name));
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const shares = arms.map((arm) => arms.map((other) => mean(model.replaced(arm.pages, other.pages))));
  const highest = Math.max(...shares.flat(), 0.01);
  const heat = (value) => h("td.number.heat", { style: { "--heat": (value / highest).toFixed(3) } }, share(value, 0));
  const rows = names.map((name, i) => [name, shares[i].map((value, j) => (i === j ? "–" : heat(value)))]);
  const head = ["of the page of", ...names.map((name) => `not in ${name}`)];
  const against = model.arms[0];
  const numbers = STEPS.map(() => 0);
  for (const value of model.replaced(yours.pages, against.pages)) {
    numbers[STEPS.findIndex(([high]) => value <= high + 1e-4)] += 1;
  }
  const most = Math.max(...numbers);
  const bars = STEPS.map(([, label], i) => [label, shareBar(numbers[i], "task task-0", most), count(numbers[i])]);
  show(
    byId("changes"),
    table("Share of the page replaced", head, rows, { className: "heats" }),
    h("h3", `Requests by the share that your sliders replace of ${against.name}'s page`),
    table("Requests by the share replaced", [], bars, { className: "bars" }),
    note(`${count(model.requests)} requests, first ${model.k} ranks.`),
  );
}
