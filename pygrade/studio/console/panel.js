// The sliders: weights or multipliers, presets, caps and boosts, what they are worth, and the file that keeps them.
import { intervalBar, reachOf } from "./charts.js";
import { byId, count, download, h, percent, range, share, show, taskClass, verdictOf } from "./dom.js";
import { exactWeights, staticPolicy, tradeOffPolicy } from "./save.js";

const DOUBLINGS = 3; // multipliers go from 1/8 to 8

export class Panel {
  // changed(sliders, rules) is called after each move.
  constructor(model, changed) {
    this.model = model;
    this.changed = changed;
    const { policy } = model.record;
    this.presets = presetsOf(model);
    this.wanted = [...(this.presets["best static"] ?? Object.values(this.presets)[0])];
    this.locked = model.tasks.map(() => false);
    this.doublings = model.tasks.map(() => 0);
    this.mode = "weights";
    this.rules = { group: 0, label: 0, multiply: 1, add: 0, capGroup: 0, cap: null };
    this.inputs = [];
    this.build(policy.trade_offs);
  }

  get sliders() {
    return {
      mode: this.mode,
      weights: exactWeights(this.wanted),
      multipliers: Float32Array.from(this.doublings, (d) => 2 ** d),
    };
  }

  build(tradeOffs) {
    const modes = h("div", { class: "segmented", role: "radiogroup", "aria-label": "What the sliders move" },
      [["weights", "Weights"], ["tradeoffs", "Trade-offs"]].map(([mode, label]) =>
        h("label", {}, h("input", { type: "radio", name: "mode", value: mode, checked: mode === this.mode, onchange: () => this.setMode(mode) }), h("span", {}, label))));
    this.list = h("div", { class: "sliders" });
    this.presetRow = h("div", { class: "presets", role: "group", "aria-label": "Presets" });
    this.note = h("p", { class: "note" });
    this.worth = h("div", { "aria-live": "polite" });
    this.byTask = h("div", {});
    this.basis = h("p", { class: "note" });
    const worth = h("div", { class: "worth" }, this.worth,
      h("details", { open: true }, h("summary", {}, "Events by task"), this.byTask), this.basis);
    show(byId("panel"),
      h("h2", {}, "Your sliders"), tradeOffs ? modes : null, this.note, this.list, this.presetRow, worth,
      h("button", { type: "button", class: "primary", id: "save", onclick: () => this.save() }, "Save as policy"),
      h("p", { class: "note", id: "saved", role: "status" }, "A zip that FusionPolicy.load reads once it is unpacked."),
      this.buildRules());
    this.setMode(this.mode);
  }

  setMode(mode) {
    this.mode = mode;
    const weights = mode === "weights";
    this.note.textContent = weights
      ? "The same weights for every request, in the policy's formula. Shares sum to 100 %."
      : "Multipliers of what events are worth. The policy chooses each request's weights for them.";
    const bounds = weights ? { min: 0, max: 100, step: 0.1 } : { min: -DOUBLINGS, max: DOUBLINGS, step: 0.05 };
    this.inputs = this.model.tasks.map((task, t) => {
      const output = h("output", { for: `slider-${t}` });
      const input = h("input", { type: "range", id: `slider-${t}`, ...bounds, oninput: () => this.move(t, Number(input.value)) });
      const lock = h("input", { type: "checkbox", "aria-label": `Hold ${task}`, title: "Hold this weight", onchange: () => (this.locked[t] = lock.checked) });
      lock.checked = this.locked[t];
      const row = h("div", { class: "slider" }, h("label", { for: `slider-${t}` }, h("i", { class: taskClass(t) }), task), input, output, weights ? lock : null);
      return { input, output, row };
    });
    show(this.list, this.inputs.map(({ row }) => row));
    show(this.presetRow, weights
      ? Object.entries(this.presets).map(([name, values]) => h("button", { type: "button", onclick: () => this.setWeights(values) }, name))
      : h("button", { type: "button", onclick: () => this.setMultipliers(this.model.tasks.map(() => 1)) }, "all × 1"));
    this.update();
  }

  // Moves one slider; the weights that are not held make room in proportion.
  move(t, value) {
    if (this.mode === "tradeoffs") {
      this.doublings[t] = value;
      this.update();
      return;
    }
    const held = this.locked.reduce((sum, locked, s) => sum + (locked && s !== t ? this.wanted[s] : 0), 0);
    const own = Math.min(value / 100, 1 - held);
    const free = this.wanted.map((_, s) => s !== t && !this.locked[s]);
    const others = this.wanted.reduce((sum, w, s) => sum + (free[s] ? w : 0), 0);
    const number = free.filter(Boolean).length;
    const rest = 1 - held - own;
    if (number === 0) this.wanted[t] = 1 - held;
    else this.wanted = this.wanted.map((w, s) => (s === t ? own : free[s] ? (others > 1e-9 ? (w / others) * rest : rest / number) : w));
    this.update();
  }

  setWeights(values) {
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
    this.changed(this.sliders, this.coreRules());
  }

  // What the moved sliders are worth against the strongest baseline.
  showWorth(lifts, over) {
    const { record, k, tasks } = this.model;
    const named = [[`value@${k}`, lifts.value], [`NDCG@${k}`, lifts.ndcg]];
    const reach = reachOf([lifts.value, lifts.ndcg]);
    const byTask = reachOf(lifts.events);
    const judge = lifts.value ?? lifts.ndcg;
    show(this.worth,
      h("p", { class: `mark ${verdictOf(judge)}` }, `${verdictOf(judge)} `, h("span", {}, `against ${over}`)),
      named.map(([name, lift]) => h("div", { class: "lift" },
        h("span", {}, name), h("b", { class: "number" }, lift ? percent(lift.value) : "n/a"), intervalBar(lift, reach, name),
        h("small", {}, lift ? range(lift) : "cannot differ on these pages"))));
    show(this.byTask, tasks.map((task, t) => h("div", { class: "lift small" },
      h("span", {}, h("i", { class: taskClass(t) }), task), h("b", { class: "number" }, lifts.events[t] ? percent(lifts.events[t].value) : "n/a"),
      intervalBar(lifts.events[t], byTask, task))));
    const requests = `${count(lifts.requests)} ${record.in_sample ? "requests that the policy knows" : "held-out requests"}`;
    this.basis.textContent = `Replay of ${requests} of ${count(lifts.users)} users, ± 95 %, paired.`;
  }

  buildRules() {
    const { groups } = this.model.record.browsed;
    if (!groups.length) return null;
    const select = (label, options, pick) => h("label", {}, label, h("select", { onchange: (event) => pick(Number(event.target.value)) },
      options.map((name, i) => h("option", { value: i }, name))));
    const number = (label, attributes, pick) => h("label", {}, label, h("input", { type: "number", ...attributes, oninput: (event) => pick(event.target.value) }));
    const names = groups.map(({ name }) => name);
    const labels = h("select", { onchange: (event) => this.setRule("label", Number(event.target.value)) });
    const fill = () => show(labels, groups[this.rules.group].labels.map((name, i) => h("option", { value: i }, name)));
    fill();
    return h("details", { class: "rules" }, h("summary", {}, "Caps and boosts"),
      h("p", { class: "note" }, "They are arguments of rank, not part of a policy, and change your page alone."),
      h("fieldset", {}, h("legend", {}, "Boost items by"),
        select("column", names, (value) => { this.rules.label = 0; this.setRule("group", value); fill(); }),
        h("label", {}, "that are", labels),
        number("score ×", { value: 1, step: 0.1, min: 0, id: "boost-multiply" }, (text) => this.setRule("multiply", text === "" ? 1 : Number(text))),
        number("score +", { value: 0, step: 0.1, id: "boost-add" }, (text) => this.setRule("add", Number(text)))),
      h("fieldset", {}, h("legend", {}, "At most on a page"),
        number("items", { min: 0, max: this.model.k, placeholder: "no cap", id: "cap" }, (text) => this.setRule("cap", text === "" ? null : Number(text))),
        select("of one", names, (value) => this.setRule("capGroup", value))));
  }

  setRule(name, value) {
    this.rules[name] = value;
    this.update();
  }

  coreRules() {
    const { groups, items } = this.model.record.browsed;
    const { group, label, multiply, add, capGroup, cap } = this.rules;
    const rules = {};
    const chosen = (value, other) => Float32Array.from(groups[group].codes, (code) => (code === label ? value : other));
    if (groups.length && Number.isFinite(multiply) && multiply !== 1) rules.boostMul = chosen(multiply, 1);
    if (groups.length && Number.isFinite(add) && add !== 0) rules.boostAdd = chosen(add, 0);
    if (cap !== null && Number.isInteger(cap) && cap >= 0 && items.length) {
      rules.groups = Int32Array.from(groups[capGroup].codes);
      rules.caps = Int32Array.of(cap);
    }
    return rules;
  }

  save() {
    const { core, record, tasks } = this.model;
    const { mode, weights, multipliers } = this.sliders;
    const [bytes, name] = mode === "weights"
      ? [staticPolicy(core, record.policy, tasks, weights), "static-policy.zip"]
      : [tradeOffPolicy(core, record.policy, tasks, Array.from(multipliers)), "trade-off-policy.zip"];
    download(name, bytes, "application/zip");
    byId("saved").textContent = `Saved ${name}: unzip ${name} -d runs/sliders, then serve runs/sliders.`;
  }
}

// Name → weights [T] of the static rankings in the policy's form.
function presetsOf({ record, tasks }) {
  const form = record.policy.transform_name;
  const found = {};
  for (const { name, kind, baseline } of record.arms) {
    const plain = kind === "baseline" && baseline.transform === form && Math.min(...baseline.weights) >= 0;
    if (plain && !baseline.value_tasks.length && !baseline.calibration.length && !baseline.logarithm) found[name] = baseline.weights;
  }
  const served = record.weights.GRADE;
  found["GRADE’s mean"] = tasks.map((_, t) => {
    let sum = 0;
    for (let r = 0; r < served.length; r += tasks.length) sum += served[r + t];
    return sum / (served.length / tasks.length);
  });
  found.equal = tasks.map(() => 1 / tasks.length);
  return found;
}
