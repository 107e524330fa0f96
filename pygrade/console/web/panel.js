// The sliders: weights or multipliers, presets, what they are worth, and the policy that keeps them.
import { intervalBar, reachOf } from "./charts.js";
import { button, byId, count, download, h, liftText, note, percent, range, share, show, taskMark } from "./dom.js";
import { METRICS } from "./replay.js";
import { exactWeights, zipped } from "./save.js";

const DOUBLINGS = 3; // multipliers go from 1/8 to 8

export class Panel {
  // changed(sliders) is called after each move.
  constructor(model, changed) {
    const { presets, start, templates } = model.record;
    Object.assign(this, { model, changed, mode: "weights" });
    this.presets = Object.fromEntries(Object.entries(presets).map(([name, values]) => [name, [...values]]));
    this.start = this.presets[start];
    this.wanted = [...this.start];
    this.moved = false; // at first the page is the served one
    this.locked = model.tasks.map(() => false);
    this.doublings = model.tasks.map(() => 0);
    this.build(templates.tradeoffs !== null);
  }

  get sliders() {
    return {
      mode: this.mode === "weights" && !this.moved ? "served" : this.mode,
      weights: exactWeights(this.wanted),
      multipliers: this.doublings.map((d) => Math.fround(2 ** d)),
    };
  }

  build(tradeOffs) {
    const mode = (value, label) => {
      const onchange = () => this.setMode(value);
      const input = h("input", { type: "radio", name: "mode", value, checked: value === this.mode, onchange });
      return h("label", input, label);
    };
    const modes = h(
      "div.segmented",
      { role: "radiogroup", "aria-label": "What the sliders move" },
      mode("weights", "Weights"),
      mode("tradeoffs", "Trade-offs"),
    );
    this.list = h("div.sliders");
    this.presetRow = h("div.presets", { role: "group", "aria-label": "Presets" });
    this.note = note();
    this.mark = h("p.mark", { role: "status" });
    this.worth = h("div");
    this.byTask = h("div");
    this.basis = note();
    const tasks = h("details", { open: true }, h("summary", "Events by task"), this.byTask);
    const saved = { id: "saved", role: "status" };
    show(
      byId("panel"),
      h("div", h("h2", "Your sliders"), tradeOffs ? modes : null, this.note, this.list, this.presetRow),
      h(
        "div",
        h("div.worth", this.mark, this.worth, tasks, this.basis),
        button("Save as policy", () => this.save(), { class: "primary", id: "save" }),
        h("p.note", saved, "A zip that FusionPolicy.load reads once it is unpacked."),
      ),
    );
    this.setMode(this.mode);
  }

  setMode(mode) {
    this.mode = mode;
    const weights = mode === "weights";
    this.note.textContent = weights
      ? "They start with what is served. A move ranks by the same weights for every request, in the policy's formula; a ticked box holds a weight while others move."
      : "Multipliers of what events are worth. The policy chooses each request's weights for them.";
    this.inputs = this.model.tasks.map((task, t) => this.#slider(task, t, weights));
    const rows = this.inputs.map(({ row }) => row);
    show(this.list, rows);
    const presets = Object.entries(this.presets).map(([name, values]) => button(name, () => this.setWeights(values)));
    const even = button("all × 1", () => this.setDoublings(0));
    show(this.presetRow, weights ? [button("as served", () => this.reset()), presets] : even);
    this.update();
  }

  #slider(task, t, weights) {
    const bounds = weights ? { min: 0, max: 100, step: 0.1 } : { min: -DOUBLINGS, max: DOUBLINGS, step: 0.05 };
    const oninput = () => this.move(t, Number(input.value));
    const input = h("input", { type: "range", id: `slider-${t}`, ...bounds, oninput });
    const output = h("output", { for: input.id });
    const onchange = () => (this.locked[t] = lock.checked);
    const named = { "aria-label": `Hold ${task}`, title: "Hold this weight" };
    const lock = h("input", { type: "checkbox", checked: this.locked[t], ...named, onchange });
    const label = h("label", { for: input.id }, taskMark(t), task);
    return { input, output, row: h("div.slider", label, input, output, weights ? lock : null) };
  }

  // Moves one slider; the weights that are not held make room in proportion.
  move(t, value) {
    if (this.mode === "tradeoffs") {
      this.doublings[t] = value;
      this.update();
      return;
    }
    const total = (chosen) => this.wanted.reduce((sum, w, s) => sum + (s !== t && chosen(s) ? w : 0), 0);
    const free = (s) => s !== t && !this.locked[s];
    const held = total((s) => this.locked[s]);
    const number = this.wanted.filter((_, s) => free(s)).length;
    const own = number ? Math.min(value / 100, 1 - held) : 1 - held;
    const others = total(free);
    const rest = 1 - held - own;
    const moved = (w) => (others > 1e-9 ? (w / others) * rest : rest / number);
    this.moved = true;
    this.wanted = this.wanted.map((w, s) => (s === t ? own : free(s) ? moved(w) : w));
    this.update();
  }

  // Back to what is served.
  reset() {
    this.moved = false;
    this.wanted = [...this.start];
    this.update();
  }

  setWeights(values) {
    this.moved = true;
    this.wanted = [...values];
    this.update();
  }

  setDoublings(value) {
    this.doublings.fill(value);
    this.update();
  }

  update() {
    const { sliders } = this;
    this.inputs.forEach(({ input, output }, t) => {
      const weights = this.mode === "weights";
      output.textContent = weights ? share(sliders.weights[t]) : `× ${sliders.multipliers[t].toFixed(2)}`;
      input.value = weights ? 100 * sliders.weights[t] : this.doublings[t];
      input.setAttribute("aria-valuetext", output.textContent);
    });
    this.changed(sliders);
  }

  // What an arm of the sliders is worth over another ranking, here and beside what the requests found.
  showWorth(arm, control) {
    const { model } = this;
    const { record, k, tasks } = model;
    const { mode } = this.sliders;
    const lifts = model.lifts(arm, mode, control);
    this.arm = arm;
    const whose = mode === "served" ? "as served" : "your sliders";
    const number = (lift) => h("b.number", lift ? percent(lift.value) : "n/a");
    const metrics = Object.entries(METRICS).map(([name, { label }]) => [`${label}@${k}`, lifts[name]]);
    const reach = reachOf(metrics.map(([, lift]) => lift));
    show(this.mark, `${whose} `, h("span", `over ${control}`));
    const whole = metrics.map(([name, lift]) => {
      const text = lift ? range(lift) : "cannot differ on these pages";
      return h("div.lift", h("span", name), number(lift), intervalBar(lift, reach, name), h("small", text));
    });
    show(this.worth, whole);
    const byTask = reachOf(lifts.events);
    const parts = lifts.events.map((lift, t) =>
      h("div.lift.small", h("span", taskMark(t), tasks[t]), number(lift), intervalBar(lift, byTask, tasks[t])),
    );
    show(this.byTask, parts);
    const known = { true: "requests that the policy knows", false: "held-out requests", null: "requests" };
    const changed = model.replaced(arm, model.arms[0]).reduce((sum, part) => sum + part, 0) / model.requests;
    const basis = [
      `Replay of ${count(lifts.requests)} ${known[record.in_sample]} of ${count(lifts.users)} users, two-sided 95 %,`,
      `paired. ${share(changed, 0)} of the first ${k} are not on the page of ${model.arms[0].name}.`,
      record.control_note,
    ];
    this.basis.textContent = basis.join(" ").trim();
    const [title, lift] = metrics.find((entry) => entry[1]) ?? metrics[0];
    if (mode === "served" && control === record.baseline) byId("your-card")?.remove();
    else this.#showCard(lift, `${whose}: ${title} over ${control}`, control); // what is served has a card already
  }

  // It comes first where a baseline is served: the other cards are of what is not.
  #showCard(lift, name, control) {
    const card = byId("your-card") ?? h("div.card.yours", { id: "your-card" });
    const mark = lift ? intervalBar(lift, reachOf([lift]), name) : note("cannot differ on these pages");
    show(card, h("small", name), h("b.number", lift ? liftText(lift) : "n/a"), mark);
    if (control === this.model.record.baseline) byId("cards")?.append(card);
    else byId("cards")?.prepend(card);
  }

  save() {
    const { mode } = this.sliders;
    if (mode === "served") {
      byId("saved").textContent = "This is served already: move a slider first.";
      return;
    }
    const name = mode === "weights" ? "static-policy.zip" : "trade-off-policy.zip";
    download(name, zipped(this.arm.files), "application/zip");
    byId("saved").textContent = `Saved ${name}: unzip ${name} -d runs/sliders, then serve runs/sliders.`;
  }
}
