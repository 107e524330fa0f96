// The sliders: weights or multipliers, presets, caps and boosts, what they are worth, and the file that keeps them.
import { intervalBar, reachOf } from "./charts.js";
import { button, byId, count, download, h, note, percent, range, share, show, taskMark } from "./dom.js";
import { Rules } from "./rules.js";
import { exactWeights, staticPolicy, tradeOffPolicy } from "./save.js";

const DOUBLINGS = 3; // multipliers go from 1/8 to 8

export class Panel {
  // changed(sliders, rules) is called after each move.
  constructor(model, changed) {
    this.model = model;
    this.changed = changed;
    const { policy } = model.record;
    this.presets = presetsOf(model);
    const { names } = model.record;
    this.start = this.presets[names.served] ?? this.presets[meanName(names)];
    this.wanted = [...this.start];
    this.moved = false; // at first the page is the served one
    this.strength = 1; // of page terms: as learned
    this.locked = model.tasks.map(() => false);
    this.doublings = model.tasks.map(() => 0);
    this.mode = "weights";
    this.rules = new Rules(model, () => this.update());
    this.inputs = [];
    this.build(policy.trade_offs);
  }

  get sliders() {
    return {
      mode: this.mode === "weights" && !this.moved ? "served" : this.mode,
      weights: exactWeights(this.wanted),
      multipliers: Float32Array.from(this.doublings, (d) => 2 ** d),
      strength: this.strength,
    };
  }

  build(tradeOffs) {
    const mode = (value, label) => {
      const onchange = () => this.setMode(value);
      const input = h("input", { type: "radio", name: "mode", value, checked: value === this.mode, onchange });
      return h("label", input, h("span", label));
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
      h("div", h("h2", "Your sliders"), tradeOffs ? modes : null, this.note, this.list, this.presetRow, this.#pageTerms()),
      h(
        "div",
        h("div.worth", this.mark, this.worth, tasks, this.basis),
        button("Save as policy", () => this.save(), { class: "primary", id: "save" }),
        h("p.note", saved, "A zip that FusionPolicy.load reads once it is unpacked."),
        this.rules.element,
      ),
    );
    this.setMode(this.mode);
  }

  // How much what stands above an item counts, of a run whose served pages are searched.
  #pageTerms() {
    if (!this.model.searches(this.model.served)) return null;
    const oninput = () => {
      this.strength = Number(input.value);
      output.textContent = share(this.strength, 0);
      input.setAttribute("aria-valuetext", output.textContent);
      this.update();
    };
    const range = { min: 0, max: 1, step: 0.05, value: 1 };
    const input = h("input", { type: "range", id: "page-terms", "aria-valuetext": "100 %", ...range, oninput });
    const output = h("output", { for: "page-terms" }, share(1, 0));
    const about = "0: the order of the scores; 100 %: as learned. It counts where one expected value ranks.";
    return [h("div.slider", h("label", { for: "page-terms" }, "Page terms"), input, output), note(about)];
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
    const even = button("all × 1", () => this.setMultipliers(this.model.tasks.map(() => 1)));
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
    this.moved = true;
    const held = this.locked.reduce((sum, locked, s) => sum + (locked && s !== t ? this.wanted[s] : 0), 0);
    const own = Math.min(value / 100, 1 - held);
    const free = this.wanted.map((_, s) => s !== t && !this.locked[s]);
    const others = this.wanted.reduce((sum, w, s) => sum + (free[s] ? w : 0), 0);
    const number = free.filter(Boolean).length;
    const rest = 1 - held - own;
    if (number === 0) this.wanted[t] = 1 - held;
    else
      this.wanted = this.wanted.map((w, s) =>
        s === t ? own : free[s] ? (others > 1e-9 ? (w / others) * rest : rest / number) : w,
      );
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
    const total = values.reduce((sum, w) => sum + w, 0);
    this.wanted = Array.from(values, (w) => w / total);
    this.update();
  }

  setMultipliers(values) {
    this.doublings = Array.from(values, (u) => Math.max(-DOUBLINGS, Math.min(DOUBLINGS, Math.log2(u))));
    if (this.mode !== "tradeoffs") {
      const radio = document.querySelector("input[name=mode][value=tradeoffs]");
      radio.checked = true;
      this.setMode("tradeoffs");
    } else this.update();
  }

  update() {
    const { weights, multipliers } = this.sliders;
    this.inputs.forEach(({ input, output }, t) => {
      const text = this.mode === "weights" ? share(weights[t]) : `× ${multipliers[t].toFixed(2)}`;
      input.value = this.mode === "weights" ? 100 * weights[t] : this.doublings[t];
      output.textContent = text;
      input.setAttribute("aria-valuetext", text);
    });
    this.changed(this.sliders, this.rules.core());
  }

  // What the moved sliders are worth against the strongest baseline.
  showWorth(lifts, over) {
    const { record, k, tasks } = this.model;
    const named = Object.entries({ [`value@${k}`]: lifts.value, [`NDCG@${k}`]: lifts.ndcg });
    const reach = reachOf([lifts.value, lifts.ndcg]);
    const byTask = reachOf(lifts.events);
    const number = (lift) => h("b.number", lift ? percent(lift.value) : "n/a");
    show(this.mark, this.sliders.mode === "served" ? "as served " : "your sliders ", h("span", `over ${over}`));
    const whole = named.map(([name, lift]) => {
      const text = lift ? range(lift) : "cannot differ on these pages";
      return h("div.lift", h("span", name), number(lift), intervalBar(lift, reach, name), h("small", text));
    });
    show(this.worth, whole);
    const parts = lifts.events.map((lift, t) =>
      h("div.lift.small", h("span", taskMark(t), tasks[t]), number(lift), intervalBar(lift, byTask, tasks[t])),
    );
    show(this.byTask, parts);
    const kind = { true: "requests that the policy knows", false: "held-out requests", null: "requests" }[
      record.in_sample
    ];
    const requests = `${count(lifts.requests)} ${kind}`;
    const basis = `Replay of ${requests} of ${count(lifts.users)} users, two-sided 95 %, paired.`;
    this.basis.textContent = [basis, record.over_note].join(" ").trim();
  }

  save() {
    const { core, record, tasks } = this.model;
    const { mode, weights, multipliers } = this.sliders;
    if (mode === "served") {
      byId("saved").textContent = "This is served already: move a slider first.";
      return;
    }
    const [bytes, name] =
      mode === "weights"
        ? [staticPolicy(core, record.policy, tasks, weights), "static-policy.zip"]
        : [tradeOffPolicy(core, record.policy, tasks, Array.from(multipliers)), "trade-off-policy.zip"];
    download(name, bytes, "application/zip");
    byId("saved").textContent = `Saved ${name}: unzip ${name} -d runs/sliders, then serve runs/sliders.`;
  }
}

function meanName(names) {
  return `mean of ${names.policy}`;
}

// Name → weights [T] of the static rankings in the policy's form.
function presetsOf({ record, tasks }) {
  const { names } = record;
  const form = record.policy.transform_name;
  const found = {};
  for (const { name, kind, baseline } of record.arms) {
    if (kind !== "baseline" || baseline.transform !== form || Math.min(...baseline.weights) < 0) continue;
    const { corrected, value_tasks: priced, calibration, logarithm } = baseline;
    if (!corrected && !priced.length && !calibration.length && !logarithm) found[name] = baseline.weights;
  }
  const served = record.weights[names.policy];
  const sum = (t) => served.reduce((whole, w, i) => (i % tasks.length === t ? whole + w : whole), 0);
  found[meanName(names)] = tasks.map((_, t) => sum(t) / (served.length / tasks.length));
  found.equal = tasks.map(() => 1 / tasks.length);
  return found;
}
