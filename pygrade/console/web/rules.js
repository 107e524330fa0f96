// Caps and boosts by groups of items.
import { h, show } from "./dom.js";

export class Rules {
  // changed() is called after each change.
  constructor(model, changed) {
    Object.assign(this, { model, changed, group: 0, label: 0, multiply: 1, add: 0, capGroup: 0, cap: null });
    this.element = this.#build();
  }

  #build() {
    const { groups } = this.model.record.browsed;
    if (!groups.length) return null;
    const select = (label, options, pick) =>
      h(
        "label",
        {},
        label,
        h(
          "select",
          { onchange: (event) => pick(Number(event.target.value)) },
          options.map((name, i) => h("option", { value: i }, name)),
        ),
      );
    const number = (label, attributes, pick) =>
      h(
        "label",
        {},
        label,
        h("input", { type: "number", ...attributes, oninput: (event) => pick(event.target.value) }),
      );
    const names = groups.map(({ name }) => name);
    const labels = h("select", { onchange: (event) => this.#set("label", Number(event.target.value)) });
    const fill = () =>
      show(
        labels,
        groups[this.group].labels.map((name, i) => h("option", { value: i }, name)),
      );
    fill();
    return h(
      "details",
      { class: "rules" },
      h("summary", {}, "Caps and boosts"),
      h("p", { class: "note" }, "They are arguments of rank, not part of a policy, and change your page alone."),
      h(
        "fieldset",
        {},
        h("legend", {}, "Boost items by"),
        select("column", names, (value) => {
          this.label = 0;
          this.#set("group", value);
          fill();
        }),
        h("label", {}, "that are", labels),
        number("score ×", { value: 1, step: 0.1, min: 0, id: "boost-multiply" }, (text) =>
          this.#set("multiply", text === "" ? 1 : Number(text)),
        ),
        number("score +", { value: 0, step: 0.1, id: "boost-add" }, (text) => this.#set("add", Number(text))),
      ),
      h(
        "fieldset",
        {},
        h("legend", {}, "At most on a page"),
        number("items", { min: 0, max: this.model.k, placeholder: "no cap", id: "cap" }, (text) =>
          this.#set("cap", text === "" ? null : Number(text)),
        ),
        select("of one", names, (value) => this.#set("capGroup", value)),
      ),
    );
  }

  #set(name, value) {
    this[name] = value;
    this.changed();
  }

  // As Core.rank takes them.
  core() {
    const { groups, items } = this.model.record.browsed;
    const { group, label, multiply, add, capGroup, cap } = this;
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
}
