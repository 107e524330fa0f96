// One request's pages side by side: what moved against a reference, by how much, and which task moved it.
import { stack } from "./charts.js";
import { button, byId, facts, h, note, select, share, show, signed, table, taskClass, taskMark } from "./dom.js";

const MOVES = 8; // that are listed, the largest

export class Pages {
  constructor(model) {
    this.model = model;
    const { arms, record } = model;
    this.request = 0;
    this.reference = arms[0].name;
    this.hidden = new Set();
    this.yours = null;
    const step = (by) => this.go((this.request + by + model.requests) % model.requests);
    const named = record.browsed.requests.map((name) => `request ${name}`);
    this.select = select(named, (request) => this.go(request), { id: "request", "aria-label": "Request" });
    const chosen = (number) => {
      this.reference = arms[number].name;
      this.update();
    };
    const names = arms.map(({ name }) => name);
    show(
      byId("navigator"),
      h(
        "div.buttons",
        button("←", () => step(-1), { id: "previous", "aria-label": "Previous request" }),
        this.select,
        button("→", () => step(1), { id: "next", "aria-label": "Next request" }),
        button("Most changed by you", () => this.go(this.mostChanged()), { id: "most-changed" }),
      ),
      h("label", "moves against", select(names, chosen, { id: "reference" })),
    );
    const legend = model.tasks.map((task, t) => h("span", taskMark(t), task));
    show(byId("legend"), legend);
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
    const pages = shown.map((arm) => this.page(arm, reference));
    show(byId("facts"), this.facts());
    show(byId("pages"), pages);
    show(byId("moves"), this.moves(this.yours, reference));
  }

  facts() {
    const { model, request } = this;
    const { timestamps, exploration, users, scenario_names: scenarios } = model.record.browsed;
    const [first, end] = model.rows(request);
    const time = timestamps && new Date(timestamps[request]).toISOString().slice(0, 16).replace("T", " ");
    const explored = exploration?.[request];
    const known = [
      ["user", users[request]],
      ["scenario", scenarios?.[request]],
      ["time", time && `${time} UTC`],
      ["candidates", end - first],
      ["exploration", explored && explored !== "none" ? explored : null],
    ];
    return facts(known.filter(([, value]) => value !== null && value !== undefined));
  }

  page(arm, reference) {
    const { model, request } = this;
    const { browsed } = model.record;
    const [first] = model.rows(request);
    const list = pageOf(model, arm, request);
    const places = placesOf(model, reference, request);
    const parts = model.contributions(arm, request);
    const reach = parts ? reachOfAll(list.map((index) => sides(parts, index, model.T))) : null;
    const rows = list.map((index, rank) => {
      const row = first + index;
      const name = browsed.item_names[browsed.items[row]];
      const events = model.tasks.map((task, t) => {
        const title = `${task}: ${model.events[t][row]}`;
        const named = { role: "img", "aria-label": task, title };
        return model.events[t][row] > 0 ? h("i", { class: `${taskClass(t)} event`, ...named }) : null;
      });
      const own = parts?.subarray(index * model.T, (index + 1) * model.T);
      return h(
        "li",
        { "data-item": index, onmouseenter: () => mark(index), onmouseleave: () => mark(null) },
        h("span.rank", rank + 1),
        arm === reference ? h("span.move") : moveMark(places.get(index), rank),
        h("span.item", { title: name }, name),
        h("span.events", events),
        own ? stack(own, reach, model.tasks, taskClass) : h("span"),
      );
    });
    const seen = list.filter((index) => browsed.positions[first + index] >= 0).length;
    const fresh = list.filter((index) => !places.has(index)).length;
    const title = h("h3", arm.name === "yours" ? "your sliders" : arm.name);
    return h(
      arm === this.yours ? "article.page.yours" : "article.page",
      h("header", title, h("small", arm === reference ? "reference" : `${fresh} new`)),
      weightBar(weightsOf(model, arm, request), model.tasks),
      h("ol", rows),
      h("footer", `${seen} of ${list.length} were shown`),
    );
  }

  // The items that your page has elsewhere than the reference's, and the task that moved each most.
  moves(yours, reference) {
    const { model, request } = this;
    if (!yours) return null;
    const [first] = model.rows(request);
    const [fresh, old] = [model.contributions(yours, request), model.contributions(reference, request)];
    const [now, before] = [placesOf(model, yours, request), placesOf(model, reference, request)];
    const rank = (map, index) => map.get(index) ?? model.k;
    const searched = yours.strength > 0 && model.searches(yours);
    const sorted = searched ? placesOf(model, { pages: model.order(yours.scores, model.k, yours.rules) }, request) : now;
    const moved = [...new Set([...now.keys(), ...before.keys()])]
      .map((index) => ({ index, by: rank(before, index) - rank(now, index) }))
      .filter(({ by }) => by !== 0)
      .sort((a, b) => Math.abs(b.by) - Math.abs(a.by))
      .slice(0, MOVES);
    const heading = h("h3", `What moved from ${reference.name} to your sliders`);
    if (!moved.length) return [heading, note("Nothing: both pages are the same.")];
    const change = (index) => {
      const part = (parts, t) => (parts ? parts[index * model.T + t] : 0);
      return Float64Array.from(model.tasks, (_, t) => part(fresh, t) - part(old, t));
    };
    const reach = reachOfAll(moved.map(({ index }) => sides(change(index), 0, model.T)));
    const { items, item_names: names } = model.record.browsed;
    const place = (map, index) => (map.has(index) ? map.get(index) + 1 : "off");
    const body = moved.map(({ index, by }) => {
      const deltas = [...change(index)];
      return [
        names[items[first + index]],
        `${place(before, index)} → ${place(now, index)}`,
        h("td", moveMark(before.get(index), now.get(index) ?? null)),
        h("td", this.cause(deltas, by, first + index, rank(sorted, index) - rank(now, index))),
        stack(deltas, reach, model.tasks, taskClass),
      ];
    });
    const head = ["item", "place", "", "moved most by", "change by task, in deviations of the score"];
    const absent = `${reference.name} has no contributions of tasks: shown are your page's.`;
    return [heading, table("What moved", head, body, { numbers: 0, className: "moves" }), old ? null : note(absent)];
  }

  // What moved a row `by` places: your boost, the items above it if they moved it most (by `above` places), or the task
  // that did most, if one did.
  cause(deltas, by, row, above) {
    const direction = Math.sign(by);
    const { boostMul, boostAdd } = this.yours.rules;
    if ((boostMul && boostMul[row] !== 1) || (boostAdd && boostAdd[row] !== 0)) return "your boost";
    if (2 * direction * above > direction * by) return "what stands above";
    const task = deltas.reduce((best, delta, t) => (direction * delta > direction * deltas[best] ? t : best), 0);
    if (direction * deltas[task] <= 0) return direction > 0 ? "others sank" : "others rose";
    return [taskMark(task), `${this.model.tasks[task]} `, h("b.number", signed(deltas[task]))];
  }
}

function pageOf(model, arm, request) {
  return [...arm.pages.subarray(request * model.k, (request + 1) * model.k)].filter((index) => index >= 0);
}

// Item → its place, from 0.
function placesOf(model, arm, request) {
  return new Map(pageOf(model, arm, request).map((index, rank) => [index, rank]));
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
  if (arm.weights?.length === model.T) return arm.weights;
  if (arm.weights) return arm.weights.subarray(request * model.T, (request + 1) * model.T);
  if (arm.kind !== "baseline" || arm.baseline.transform !== model.record.policy.transform_name) return null;
  const total = arm.baseline.weights.reduce((sum, w) => sum + Math.abs(w), 0);
  return Float32Array.from(arm.baseline.weights, (w) => Math.abs(w) / total);
}

// Before and after: places from 0; undefined or null: not on the page.
function moveMark(before, after) {
  if (before === undefined) return h("span.move.new", "new");
  if (after === null) return h("span.move.down", "out");
  if (before === after) return h("span.move.same", "=");
  const by = before - after;
  return by > 0 ? h("span.move.up", `▲${by}`) : h("span.move.down", `▼${-by}`);
}

function weightBar(weights, tasks) {
  if (!weights) return h("div.weights.none");
  const title = tasks.map((task, t) => `${task} ${share(weights[t], 0)}`).join(", ");
  const parts = [...weights].map((w, t) => h("i", { class: taskClass(t), style: { width: `${100 * w}%` } }));
  return h("div.weights", { role: "img", "aria-label": `weights: ${title}`, title }, parts);
}

// Marks an item in all pages.
function mark(index) {
  for (const row of document.querySelectorAll("#pages li"))
    row.classList.toggle("same-item", row.dataset.item === String(index));
}
