// Caps and boosts by groups of items.
import { h, note, select, show } from "./dom.js";

export class Rules {
  // changed() is called after each change.
  constructor(model, changed) {
    Object.assign(this, { model, changed, group: 0, label: 0, multiply: 1, add: 0, capGroup: 0, cap: null });
    this.element = model.record.browsed.groups.length ? this.#build() : null;
  }

  #build() {
    const { groups } = this.model.record.browsed;
    const names = groups.map(({ name }) => name);
    const labels = h("label");
    const fill = () => {
      const choice = select(groups[this.group].labels, (value) => this.#set("label", value));
      show(labels, "that are", choice);
    };
    const group = select(names, (value) => {
      this.label = 0;
      this.#set("group", value);
      fill();
    });
    const capGroup = select(names, (value) => this.#set("capGroup", value));
    // A field for a number, and what counts while it is empty.
    const number = (text, name, empty, attributes) => {
      const oninput = ({ target }) => this.#set(name, target.value === "" ? empty : Number(target.value));
      return h("label", text, h("input", { type: "number", ...attributes, oninput }));
    };
    fill();
    return h(
      "details.rules",
      h("summary", "Caps and boosts"),
      note(
        "They are arguments of rank, not part of a policy, and change your page alone. A factor above 1 never lowers an item: negative scores are divided by it.",
      ),
      h(
        "fieldset",
        h("legend", "Boost items by"),
        h("label", "column", group),
        labels,
        number("score ×", "multiply", 1, { value: 1, step: "any", min: 0, max: 1e30, id: "boost-multiply" }),
        number("score +", "add", 0, { value: 0, step: "any", id: "boost-add" }),
      ),
      h(
        "fieldset",
        h("legend", "At most on a page"),
        number("items", "cap", null, { min: 0, max: this.model.k, placeholder: "no cap", id: "cap" }),
        h("label", "of one", capGroup),
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
    const counts = (value) => groups.length > 0 && Number.isFinite(Math.fround(value));
    if (counts(multiply) && multiply >= 0 && multiply !== 1) rules.boostMul = chosen(multiply, 1);
    if (counts(add) && add !== 0) rules.boostAdd = chosen(add, 0);
    if (cap !== null && Number.isInteger(cap) && cap >= 0 && items.length) {
      rules.groups = Int32Array.from(groups[capGroup].codes);
      rules.caps = Int32Array.of(cap);
    }
    return rules;
  }
}
