// One request's pages side by side: what moved against a reference, by how much, and which task moved it.
import { stack } from "./charts.js";
import { byId, facts, h, share, show, signed, table, taskClass } from "./dom.js";

export class Pages {
  constructor(model) {
    this.model = model;
    const { arms, record } = model;
    this.request = 0;
    this.reference = arms[0].name;
    this.hidden = new Set();
    this.yours = null;
    const step = (by) => this.go((this.request + by + model.requests) % model.requests);
    this.select = h(
      "select",
      { id: "request", "aria-label": "Request", onchange: (event) => this.go(Number(event.target.value)) },
      record.browsed.requests.map((name, r) => h("option", { value: r }, `request ${name}`)),
    );
    this.referenceSelect = h(
      "select",
      {
        id: "reference",
        onchange: (event) => {
          this.reference = event.target.value;
          this.update();
        },
      },
      arms.map(({ name }) => h("option", { value: name }, name)),
    );
    show(
      byId("navigator"),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", id: "previous", "aria-label": "Previous request", onclick: () => step(-1) }, "←"),
        this.select,
        h("button", { type: "button", id: "next", "aria-label": "Next request", onclick: () => step(1) }, "→"),
        h(
          "button",
          { type: "button", id: "most-changed", onclick: () => this.go(this.mostChanged()) },
          "Most changed by you",
        ),
      ),
      h("label", {}, "moves against", this.referenceSelect),
    );
    show(
      byId("legend"),
      model.tasks.map((task, t) => h("span", {}, h("i", { class: taskClass(t) }), task)),
    );
  }

  go(request) {
    this.request = request;
    this.select.value = String(request);
    this.update();
  }

  setYours(arm) {
    this.yours = arm;
    this.update();
  }

  // The next request of those whose page the sliders change most.
  mostChanged() {
    const changed = this.model.replaced(this.yours.pages, this.model.arm(this.reference).pages);
    const most = Math.max(...changed);
    const places = [...changed.keys()].filter((r) => changed[r] === most);
    return places.find((r) => r > this.request) ?? places[0];
  }

  update() {
    const { arms } = this.model;
    // What was shown, what is served and your page stand first: others may be beyond the edge.
    const front = [arms[0], this.model.served, ...(this.yours ? [this.yours] : [])];
    const shown = [...new Set([...front, ...arms])];
    const reference = arms.find(({ name }) => name === this.reference);
    show(byId("facts"), this.facts());
    show(
      byId("pages"),
      shown.map((arm) => this.page(arm, reference)),
    );
    show(byId("moves"), this.moves(this.yours, reference));
  }

  facts() {
    const { record, request } = { record: this.model.record, request: this.request };
    const { browsed } = record;
    const [first, end] = this.model.rows(request);
    const time =
      browsed.timestamps && new Date(browsed.timestamps[request]).toISOString().slice(0, 16).replace("T", " ");
    const explored = browsed.exploration?.[request];
    const known = [
      ["user", browsed.users[request]],
      ["scenario", browsed.scenario_names?.[request]],
      ["time", time && `${time} UTC`],
      ["candidates", end - first],
      ["exploration", explored && explored !== "none" ? explored : null],
    ].filter(([, value]) => value !== null && value !== undefined);
    return facts(known);
  }

  page(arm, reference) {
    const { model, request } = this;
    const { browsed } = model.record;
    const [first, end] = model.rows(request);
    const list = pageOf(model, arm, request);
    const places = new Map(pageOf(model, reference, request).map((index, rank) => [index, rank]));
    const parts = model.contributions(arm, request);
    const reach = parts ? reachOfAll(list.map((index) => sides(parts, index, model.T))) : null;
    const weights = weightsOf(model, arm, request);
    const rows = list.map((index, rank) => {
      const row = first + index;
      const name = browsed.item_names[browsed.items[row]];
      const events = model.tasks.flatMap((task, t) =>
        model.events[t][row] > 0
          ? [
              h("i", {
                class: `${taskClass(t)} event`,
                role: "img",
                "aria-label": task,
                title: `${task}: ${model.events[t][row]}`,
              }),
            ]
          : [],
      );
      return h(
        "li",
        { "data-item": index, onmouseenter: () => mark(index), onmouseleave: () => mark(null) },
        h("span", { class: "rank" }, rank + 1),
        arm === reference ? h("span", { class: "move" }) : moveMark(places.get(index), rank),
        h("span", { class: "item", title: name }, name),
        h("span", { class: "events" }, events),
        parts
          ? stack(parts.subarray(index * model.T, (index + 1) * model.T), reach, model.tasks, taskClass)
          : h("span", {}),
      );
    });
    const seen = list.filter((index) => browsed.positions[first + index] >= 0).length;
    return h(
      "article",
      { class: arm === this.yours ? "page yours" : "page" },
      h(
        "header",
        {},
        h("h3", {}, arm.name === "yours" ? "your sliders" : arm.name),
        h("small", {}, arm === reference ? "reference" : `${newOf(list, places)} new`),
      ),
      weights ? weightBar(weights, model.tasks) : h("div", { class: "weights none" }),
      h("ol", {}, rows),
      h("footer", {}, `${seen} of ${list.length} were shown`, end - first < list.length ? "" : null),
    );
  }

  // The items that your page has elsewhere than the reference's, and the task that moved each most.
  moves(yours, reference) {
    const { model, request } = this;
    if (!yours) return null;
    const [first] = model.rows(request);
    const [fresh, old] = [model.contributions(yours, request), model.contributions(reference, request)];
    const places = (arm) => new Map(pageOf(model, arm, request).map((index, rank) => [index, rank]));
    const [now, before] = [places(yours), places(reference)];
    const rank = (map, index) => map.get(index) ?? model.k;
    const moved = [...new Set([...now.keys(), ...before.keys()])]
      .map((index) => ({ index, by: rank(before, index) - rank(now, index) }))
      .filter(({ by }) => by !== 0)
      .sort((a, b) => Math.abs(b.by) - Math.abs(a.by));
    const heading = h("h3", {}, `What moved from ${reference.name} to your sliders`);
    if (!moved.length) return [heading, h("p", { class: "note" }, "Nothing: both pages are the same.")];
    const change = (index) =>
      Float64Array.from(
        model.tasks,
        (_, t) => (fresh ? fresh[index * model.T + t] : 0) - (old ? old[index * model.T + t] : 0),
      );
    const first8 = moved.slice(0, 8);
    const reach = reachOfAll(first8.map(({ index }) => sides(change(index), 0, model.T)));
    const body = first8.map(({ index, by }) => {
      const deltas = [...change(index)];
      const { browsed } = model.record;
      const place = (map) => (map.has(index) ? map.get(index) + 1 : "off");
      return [
        browsed.item_names[browsed.items[first + index]],
        `${place(before)} → ${place(now)}`,
        h("td", {}, moveMark(before.get(index), now.get(index) ?? null)),
        h("td", {}, this.cause(deltas, Math.sign(by), first + index)),
        stack(deltas, reach, model.tasks, taskClass),
      ];
    });
    return [
      heading,
      table("What moved", ["item", "place", "", "moved most by", "change by task, in deviations of the score"], body, {
        numbers: 0,
        className: "moves",
      }),
      old ? null : h("p", { class: "note" }, `${reference.name} has no contributions of tasks: shown are your page's.`),
    ];
  }

  // What moved a row up (1) or down (-1): your boost, or the task that did most, if one did.
  cause(deltas, direction, row) {
    const { boostMul, boostAdd } = this.yours.rules;
    if ((boostMul && boostMul[row] !== 1) || (boostAdd && boostAdd[row] !== 0)) return "your boost";
    const task = deltas.reduce((best, delta, t) => (direction * delta > direction * deltas[best] ? t : best), 0);
    if (direction * deltas[task] <= 0) return direction > 0 ? "others sank" : "others rose";
    const amount = h("b", { class: "number" }, signed(deltas[task]));
    return [h("i", { class: taskClass(task) }), `${this.model.tasks[task]} `, amount];
  }
}

function pageOf(model, arm, request) {
  return [...arm.pages.subarray(request * model.k, (request + 1) * model.k)].filter((index) => index >= 0);
}

// How far an item's stack reaches to the right and to the left.
function sides(parts, index, tasks) {
  let [up, down] = [0, 0];
  for (const value of parts.subarray(index * tasks, (index + 1) * tasks)) {
    if (value > 0) up += value;
    else down -= value;
  }
  return [up, down];
}

// The largest of each side.
function reachOfAll(pairs) {
  return [0, 1].map((side) => Math.max(...pairs.map((pair) => pair[side]), 0));
}

// The weights that rank the request, as shares; null of an order or of an expected value.
function weightsOf(model, arm, request) {
  if (arm.weights)
    return arm.weights.length === model.T
      ? arm.weights
      : arm.weights.subarray(request * model.T, (request + 1) * model.T);
  if (arm.kind !== "baseline" || arm.baseline.transform !== model.record.policy.transform_name) return null;
  const total = arm.baseline.weights.reduce((sum, w) => sum + Math.abs(w), 0);
  return Float32Array.from(arm.baseline.weights, (w) => Math.abs(w) / total);
}

function newOf(list, places) {
  return list.filter((index) => !places.has(index)).length;
}

// Before and after: places from 0; undefined or null: not on the page.
function moveMark(before, after) {
  if (before === undefined) return h("span", { class: "move new" }, "new");
  if (after === null) return h("span", { class: "move down" }, "out");
  if (before === after) return h("span", { class: "move same" }, "=");
  const by = before - after;
  return h("span", { class: by > 0 ? "move up" : "move down" }, `${by > 0 ? "▲" : "▼"}${Math.abs(by)}`);
}

function weightBar(weights, tasks) {
  const text = tasks.map((task, t) => `${task} ${share(weights[t], 0)}`).join(", ");
  return h(
    "div",
    { class: "weights", role: "img", "aria-label": `weights: ${text}`, title: text },
    [...weights].map((w, t) => h("i", { class: taskClass(t), style: { width: `${100 * w}%` } })),
  );
}

// Marks an item in all pages.
function mark(index) {
  for (const row of document.querySelectorAll("#pages li"))
    row.classList.toggle("same-item", row.dataset.item === String(index));
}
