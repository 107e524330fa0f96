// Puts the page together.
import { Core } from "./core.js";
import { unpack, unpackBytes } from "./data.js";
import { byId, count, h, show } from "./dom.js";
import { Live } from "./live.js";
import { Model } from "./model.js";
import { Pages } from "./pages.js";
import { Panel } from "./panel.js";

// Whether the page ranks as the C++ library does.
function showCheck(model) {
  const { same, all } = model.check();
  const text =
    same === all
      ? `✓ This page ranks all ${count(all)} candidates of ${count(model.arms.length)} rankings exactly as the C++ core does.`
      : `✗ ${count(all - same)} of ${count(all)} candidates rank elsewhere than in the C++ core: do not trust this page.`;
  show(byId("check"), h(same === all ? "p.good" : "p.bad", text));
  return same === all;
}

async function start() {
  new Live(byId("live")).start();
  const text = byId("data").textContent.trim();
  if (text === "") {
    document.body.classList.add("without-run");
    return;
  }
  const core = await Core.load(await unpackBytes(byId("core").textContent));
  const model = new Model(core, await unpack(text));
  byId("run").hidden = false;
  const pages = new Pages(model);
  let [updates, waiting] = [0, 0];
  const update = (sliders) => {
    const yours = model.yours(sliders);
    pages.setYours(yours);
    panel.showWorth(yours, model.record.control);
    document.documentElement.dataset.updates = String(++updates);
  };
  // Once the browser has time, as the last move needs it.
  const panel = new Panel(model, (sliders) => {
    cancelAnimationFrame(waiting);
    if (updates > 0) waiting = requestAnimationFrame(() => update(sliders));
  });
  update(panel.sliders);
  document.documentElement.dataset.state = showCheck(model) ? "ready" : "wrong";
}

start().catch((error) => {
  document.documentElement.dataset.state = "failed";
  show(byId("check"), h("p.bad", `The page could not start: ${error.message}`));
  throw error;
});
