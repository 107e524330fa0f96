// Puts the page together.
import { showChanges } from "./changes.js";
import { showColumns } from "./columns.js";
import { Core } from "./core.js";
import { unpack, unpackBytes } from "./data.js";
import { byId, h, show } from "./dom.js";
import { Front } from "./front.js";
import { showCheck, showYourCard } from "./head.js";
import { Live } from "./live.js";
import { Model } from "./model.js";
import { Pages } from "./pages.js";
import { Panel } from "./panel.js";

const THEMES = ["system", "light", "dark"];

// The theme that was chosen; a page from a file may have no storage.
function storedTheme(chosen) {
  try {
    if (chosen) localStorage.setItem("pygrade-theme", chosen);
    return localStorage.getItem("pygrade-theme");
  } catch {
    return chosen;
  }
}

function themes() {
  const button = byId("theme");
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = `${theme} theme`;
  };
  button.addEventListener("click", () => {
    const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
    storedTheme(theme);
    apply(theme);
  });
  apply(storedTheme() ?? "system");
  button.hidden = false;
}

// Calls work once the browser has time, with the arguments of the last call.
function soon(work) {
  let waiting = 0;
  return (...given) => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => work(...given));
  };
}

async function start() {
  themes();
  new Live(byId("live")).start();
  const text = byId("data").textContent.trim();
  if (text === "") {
    document.body.classList.add("without-run");
    return;
  }
  const core = await Core.load(await unpackBytes(byId("core").textContent));
  const model = new Model(core, await unpack(text));
  const { over } = model.record;
  byId("run").hidden = false;
  showColumns(model);
  const pages = new Pages(model);
  let updates = 0;
  const update = (sliders, rules) => {
    const yours = model.yours(sliders, rules);
    const lifts = model.lifts(yours, sliders, over);
    pages.setYours(yours);
    panel.showWorth(lifts, over);
    showYourCard(model, sliders, lifts, over);
    showChanges(model, yours);
    document.documentElement.dataset.updates = String(++updates);
  };
  let begun = false;
  const later = soon(update);
  const panel = new Panel(model, (sliders, rules) => begun && later(sliders, rules));
  begun = true;
  update(panel.sliders, panel.rules.core());
  new Front(model, (values) => panel.setMultipliers(values));
  document.documentElement.dataset.state = showCheck(model) ? "ready" : "wrong";
}

start().catch((error) => {
  document.documentElement.dataset.state = "failed";
  show(byId("check"), h("p.bad", `The page could not start: ${error.message}`));
  throw error;
});
