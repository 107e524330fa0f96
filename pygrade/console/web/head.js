// What moved sliders are worth, beside what the requests found; and whether the page ranks as the core does.
import { intervalBar, reachOf } from "./charts.js";
import { byId, count, h, liftText, show } from "./dom.js";

export function showYourCard(model, lifts, over) {
  const lift = lifts.value ?? lifts.ndcg;
  const name = `your sliders: ${lifts.value ? "value" : "NDCG"}@${model.k} over ${over}`;
  const card = byId("your-card") ?? h("div", { class: "card yours", id: "your-card" });
  show(
    card,
    h("small", {}, name),
    h("b", { class: "number" }, lift ? liftText(lift) : "n/a"),
    lift ? intervalBar(lift, reachOf([lift]), name) : h("p", { class: "note" }, "cannot differ on these pages"),
  );
  byId("cards")?.append(card);
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
