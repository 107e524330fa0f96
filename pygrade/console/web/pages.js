// One request's pages side by side: what moved against a reference, and which task moved it.
import { stack } from "./charts.js";
import { button, byId, facts, h, select, share, show, taskClass, taskMark } from "./dom.js";

export class Pages {
  constructor(model) {
    const { arms, record } = model;
    Object.assign(this, { model, request: 0, reference: arms[0], yours: null });
    const step = (by) => this.go((this.request + by + model.requests) % model.requests);
    const named = record.requests.names.map((name) => `request ${name}`);
    this.select = select(named, (request) => this.go(request), { id: "request", "aria-label": "Request" });
    const names = arms.map(({ name }) => name);
    const chosen = (number) => {
      this.reference = arms[number];
      this.update();
    };
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
    const changed = this.model.replaced(this.yours, this.reference);
    const most = Math.max(...changed);
    const places = [...changed.keys()].filter((r) => changed[r] === most);
    return places.find((r) => r > this.request) ?? places[0];
  }

  update() {
    const { arms, served } = this.model;
    // What was shown, what is served and your page stand first: others may be beyond the edge.
    const shown = [...new Set([arms[0], served, ...(this.yours ? [this.yours] : []), ...arms])];
    const pages = shown.map((arm) => this.page(arm));
    show(byId("facts"), this.facts());
    show(byId("pages"), pages);
  }

  facts() {
    const { model, request } = this;
    const { timestamps, exploration, users, scenario_names: scenarios } = model.record.requests;
    const time = timestamps && new Date(timestamps[request]).toISOString().slice(0, 16).replace("T", " ");
    const explored = exploration?.[request];
    const pairs = [
      ["user", users[request]],
      ["scenario", scenarios?.[request]],
      ["time", time && `${time} UTC`],
      ["candidates", model.offsets[request + 1] - model.offsets[request]],
      ["exploration", explored === "none" ? null : explored],
    ];
    return facts(pairs.filter(([, value]) => value !== null && value !== undefined));
  }

  page(arm) {
    const { model, request, reference } = this;
    const { item, item_names: names, positions } = model.record.requests;
    const first = model.offsets[request];
    const list = model.pageOf(arm, request);
    const places = new Map(model.pageOf(reference, request).map((index, rank) => [index, rank]));
    const parts = model.contributions(arm, request);
    const reach = parts && stackReach(list.map((index) => parts[index]));
    const rows = list.map((index, rank) => {
      const name = names[item[first + index]];
      const events = model.tasks.map((task, t) => {
        const number = model.events[t][first + index];
        const named = { role: "img", "aria-label": task, title: `${task}: ${number}` };
        return number > 0 ? h("i", { class: `${taskClass(t)} event`, ...named }) : null;
      });
      return h(
        "li",
        { "data-item": index, onmouseenter: () => mark(index), onmouseleave: () => mark(null) },
        h("span.rank", rank + 1),
        arm === reference ? h("span.move") : moveMark(places.get(index), rank),
        h("span.item", { title: name }, name),
        h("span.events", events),
        parts ? stack(parts[index], reach, model.tasks, taskClass) : h("span"),
      );
    });
    const seen = list.filter((index) => positions[first + index] >= 0).length;
    const fresh = list.filter((index) => !places.has(index)).length;
    const title = h("h3", arm.name === "yours" ? "your sliders" : arm.name);
    return h(
      arm === this.yours ? "article.page.yours" : "article.page",
      h("header", title, h("small", arm === reference ? "reference" : `${fresh} new`)),
      weightBar(model.weightsOf(arm, request), model.tasks),
      h("ol", rows),
      h("footer", `${seen} of ${list.length} were shown`),
    );
  }
}

// How far the stacks of items reach to the right and to the left.
function stackReach(stacks) {
  const sum = (parts, sign) => parts.reduce((all, value) => all + Math.max(sign * value, 0), 0);
  return [1, -1].map((sign) => Math.max(...stacks.map((parts) => sum(parts, sign)), 0));
}

// The mark of an item in place `after` that was in place `before`, from 0; undefined: it was not on the page.
function moveMark(before, after) {
  if (before === undefined) return h("span.move.new", "new");
  if (before === after) return h("span.move.same", "=");
  return before > after ? h("span.move.up", `▲${before - after}`) : h("span.move.down", `▼${after - before}`);
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
