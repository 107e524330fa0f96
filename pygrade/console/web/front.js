// The front of trade-offs.
import { scatter } from "./charts.js";
import { byId, count, h, note, select, show } from "./dom.js";

// The front: two tasks to choose, and points that set the sliders.
export class Front {
  constructor(model, choose) {
    this.model = model;
    this.choose = choose;
    this.front = model.record.front;
    byId("front-section").hidden = this.front === null;
    if (this.front === null) return;
    const names = [...this.front.tasks, "value"];
    [this.x, this.y] = names;
    const axis = (name) => {
      const chosen = (number) => {
        this[name] = names[number];
        this.draw();
      };
      return h(
        "label",
        `${name} axis`,
        select(names, chosen, { id: `front-${name}`, selected: names.indexOf(this[name]) }),
      );
    };
    this.plot = h("div.plot");
    const size = `${count(this.front.num_requests)} requests`;
    const text = `Events over production, ${size}, estimated by position and model. A point sets the sliders to its multipliers.`;
    show(byId("front"), h("div.buttons", axis("x"), axis("y")), this.plot, note(text));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  #point(point, name, kind) {
    const choose = () => this.choose(this.model.tasks.map((task) => point.values[task]));
    return { x: point.events[this.x], y: point.events[this.y], name, kind, onclick: point.values ? choose : null };
  }

  draw() {
    const { marks, knobs, paths } = this.front;
    const text = (values) =>
      Object.entries(values)
        .filter(([, u]) => u !== 1)
        .map(([task, u]) => `${task} × ${u.toFixed(2)}`)
        .join(", ");
    const named = (table, kind) => Object.entries(table).map(([name, point]) => this.#point(point, name, kind));
    const known = ({ x, y }) => Number.isFinite(x?.value) && Number.isFinite(y?.value);
    const lines = paths.map(([, , points]) =>
      points.map((point) => this.#point(point, text(point.values), "path")).filter(known),
    );
    const production = { x: { value: 0 }, y: { value: 0 }, name: "production", kind: "mark", onclick: null };
    const points = [...lines.flat(), ...named(knobs, "knob"), ...named(marks, "mark"), production].filter(known);
    const pressable = () => [...this.plot.querySelectorAll(".point[tabindex]")];
    const active = pressable().indexOf(document.activeElement);
    show(this.plot, scatter(points, lines, Math.max(this.plot.clientWidth, 280), { x: this.x, y: this.y }));
    if (active >= 0) pressable()[active]?.focus();
  }
}
