// What moved sliders are worth, beside what the requests found; and whether the page ranks as the core does.
import { intervalBar, reachOf } from "./charts.js";
import { byId, count, h, liftText, note, show } from "./dom.js";

// It comes first where a baseline is served: the other cards are of what is not.
export function showYourCard(model, sliders, lifts, over) {
  const lift = lifts.value ?? lifts.ndcg;
  const whose = sliders.mode === "served" ? "as served" : "your sliders";
  const name = `${whose}: ${lifts.value ? "value" : "NDCG"}@${model.k} over ${over}`;
  const card = byId("your-card") ?? h("div.card.yours", { id: "your-card" });
  const mark = lift ? intervalBar(lift, reachOf([lift]), name) : note("cannot differ on these pages");
  show(card, h("small", name), h("b.number", lift ? liftText(lift) : "n/a"), mark);
  if (over === model.record.baseline) byId("cards")?.append(card);
  else byId("cards")?.prepend(card);
}

export function showCheck(model) {
  const { same, all } = model.check();
  const text =
    same === all
      ? `✓ This page ranks all ${count(all)} candidates of ${count(model.arms.length)} rankings exactly as the C++ core does.`
      : `✗ ${count(all - same)} of ${count(all)} candidates rank elsewhere than in the C++ core: do not trust this page.`;
  show(byId("check"), h(same === all ? "p.good" : "p.bad", text));
  return same === all;
}
