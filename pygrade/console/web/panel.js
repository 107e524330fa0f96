// The sliders: weights or multipliers, presets, caps and boosts, what they are worth, and the file that keeps them.
import { intervalBar, reachOf } from "./charts.js";
import { byId, count, download, h, percent, range, share, show, taskClass } from "./dom.js";
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
    };
  }

  build(tradeOffs) {
    const modes = h(
      "div",
      { class: "segmented", role: "radiogroup", "aria-label": "What the sliders move" },
      [
        ["weights", "Weights"],
        ["tradeoffs", "Trade-offs"],
      ].map(([mode, label]) =>
        h(
          "label",
          {},
          h("input", {
            type: "radio",
            name: "mode",
            value: mode,
            checked: mode === this.mode,
            onchange: () => this.setMode(mode),
          }),
          h("span", {}, label),
        ),
      ),
    );
    this.list = h("div", { class: "sliders" });
    this.presetRow = h("div", { class: "presets", role: "group", "aria-label": "Presets" });
    this.note = h("p", { class: "note" });
    this.mark = h("p", { class: "mark", role: "status" });
    this.worth = h("div", {});
    this.byTask = h("div", {});
    this.basis = h("p", { class: "note" });
    const worth = h(
      "div",
      { class: "worth" },
      this.mark,
      this.worth,
      h("details", { open: true }, h("summary", {}, "Events by task"), this.byTask),
      this.basis,
    );
    show(
      byId("panel"),
      h("div", {}, h("h2", {}, "Your sliders"), tradeOffs ? modes : null, this.note, this.list, this.presetRow),
      h(
        "div",
        {},
        worth,
        h("button", { type: "button", class: "primary", id: "save", onclick: () => this.save() }, "Save as policy"),
        h(
          "p",
          { class: "note", id: "saved", role: "status" },
          "A zip that FusionPolicy.load reads once it is unpacked.",
        ),
        this.rules.element,
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
    const bounds = weights ? { min: 0, max: 100, step: 0.1 } : { min: -DOUBLINGS, max: DOUBLINGS, step: 0.05 };
    this.inputs = this.model.tasks.map((task, t) => {
      const output = h("output", { for: `slider-${t}` });
      const input = h("input", {
        type: "range",
        id: `slider-${t}`,
        ...bounds,
        oninput: () => this.move(t, Number(input.value)),
      });
      const lock = h("input", {
        type: "checkbox",
        "aria-label": `Hold ${task}`,
        title: "Hold this weight",
        onchange: () => (this.locked[t] = lock.checked),
      });
      lock.checked = this.locked[t];
      const row = h(
        "div",
        { class: "slider" },
        h("label", { for: `slider-${t}` }, h("i", { class: taskClass(t) }), task),
        input,
        output,
        weights ? lock : null,
      );
      return { input, output, row };
    });
    show(
      this.list,
      this.inputs.map(({ row }) => row),
    );
    show(
      this.presetRow,
      weights
        ? [
            h("button", { type: "button", onclick: () => this.reset() }, "as served"),
            ...Object.entries(this.presets).map(([name, values]) =>
              h("button", { type: "button", onclick: () => this.setWeights(values) }, name),
            ),
          ]
        : h("button", { type: "button", onclick: () => this.setMultipliers(this.model.tasks.map(() => 1)) }, "all × 1"),
    );
    this.update();
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
    const named = [
      [`value@${k}`, lifts.value],
      [`NDCG@${k}`, lifts.ndcg],
    ];
    const reach = reachOf([lifts.value, lifts.ndcg]);
    const byTask = reachOf(lifts.events);
    show(this.mark, this.sliders.mode === "served" ? "as served " : "your sliders ", h("span", {}, `over ${over}`));
    show(
      this.worth,
      named.map(([name, lift]) =>
        h(
          "div",
          { class: "lift" },
          h("span", {}, name),
          h("b", { class: "number" }, lift ? percent(lift.value) : "n/a"),
          intervalBar(lift, reach, name),
          h("small", {}, lift ? range(lift) : "cannot differ on these pages"),
        ),
      ),
    );
    show(
      this.byTask,
      tasks.map((task, t) =>
        h(
          "div",
          { class: "lift small" },
          h("span", {}, h("i", { class: taskClass(t) }), task),
          h("b", { class: "number" }, lifts.events[t] ? percent(lifts.events[t].value) : "n/a"),
          intervalBar(lifts.events[t], byTask, task),
        ),
      ),
    );
    const kind = { true: "requests that the policy knows", false: "held-out requests", null: "requests" }[
      record.in_sample
    ];
    const requests = `${count(lifts.requests)} ${kind}`;
    this.basis.textContent = `Replay of ${requests} of ${count(lifts.users)} users, two-sided 95 %, paired.`;
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
    const plain = kind === "baseline" && baseline.transform === form && Math.min(...baseline.weights) >= 0;
    if (
      plain &&
      !baseline.corrected &&
      !baseline.value_tasks.length &&
      !baseline.calibration.length &&
      !baseline.logarithm
    )
      found[name] = baseline.weights;
  }
  const served = record.weights[names.policy];
  found[meanName(names)] = tasks.map((_, t) => {
    let sum = 0;
    for (let r = 0; r < served.length; r += tasks.length) sum += served[r + t];
    return sum / (served.length / tasks.length);
  });
  found.equal = tasks.map(() => 1 / tasks.length);
  return found;
}
