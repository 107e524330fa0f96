// The front of trade-offs.
import { scatter } from "./charts.js";
import { byId, count, h, show } from "./dom.js";

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
    const select = (axis) =>
      h(
        "label",
        {},
        `${axis} axis`,
        h(
          "select",
          {
            id: `front-${axis}`,
            onchange: (event) => {
              this[axis] = event.target.value;
              this.draw();
            },
          },
          names.map((name) => h("option", { value: name, selected: name === this[axis] }, name)),
        ),
      );
    this.plot = h("div", { class: "plot" });
    show(
      byId("front"),
      h("div", { class: "buttons" }, select("x"), select("y")),
      this.plot,
      h(
        "p",
        { class: "note" },
        `Events over production, ${count(this.front.num_requests)} requests, estimated by position and model. A point sets the sliders to its multipliers.`,
      ),
    );
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  draw() {
    const { marks, knobs, paths } = this.front;
    const made = (point, name, kind) => ({
      x: point.events[this.x],
      y: point.events[this.y],
      name,
      kind,
      onclick: point.values ? () => this.choose(this.model.tasks.map((task) => point.values[task])) : null,
    });
    const text = (values) =>
      Object.entries(values)
        .filter(([, u]) => u !== 1)
        .map(([task, u]) => `${task} × ${u.toFixed(2)}`)
        .join(", ");
    const lines = paths.map(([, , points]) => points.map((point) => made(point, text(point.values), "path")));
    const points = [
      ...lines.flat(),
      ...Object.entries(knobs).map(([name, point]) => made(point, name, "knob")),
      ...Object.entries(marks).map(([name, point]) => made(point, name, "mark")),
      { x: { value: 0 }, y: { value: 0 }, name: "production", kind: "mark", onclick: null },
    ];
    const known = (point) => Number.isFinite(point.x?.value) && Number.isFinite(point.y?.value);
    const active = document.activeElement?.closest?.(".point")
      ? [...this.plot.querySelectorAll(".point[tabindex]")].indexOf(document.activeElement)
      : -1;
    show(
      this.plot,
      scatter(
        points.filter(known),
        lines.map((line) => line.filter(known)),
        Math.max(this.plot.clientWidth, 280),
        { x: this.x, y: this.y },
      ),
    );
    if (active >= 0) this.plot.querySelectorAll(".point[tabindex]")[active]?.focus();
  }
}
