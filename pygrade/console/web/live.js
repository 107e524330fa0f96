// The service's state, /v1/status, polled where the page comes from a service; absent in a file.
import { sparkline } from "./charts.js";
import { count, facts, h, share, show } from "./dom.js";
import {
  armsTable,
  driftTable,
  latencyTable,
  milliseconds,
  onlineTable,
  reloadTable,
  shadowTable,
  total,
} from "./live_tables.js";

const EVERY = 5000; // ms
const KEPT = 120; // polls in the small curves

export class Live {
  constructor(place) {
    this.place = place;
    this.history = [];
    this.parts = new Map(); // id → {details, body}, which stay open or closed while their numbers change
  }

  start() {
    if (!location.protocol.startsWith("http")) return;
    this.poll();
    setInterval(() => document.hidden || this.poll(), EVERY);
    document.addEventListener("visibilitychange", () => document.hidden || this.poll());
  }

  async poll() {
    try {
      const response = await fetch("v1/status", { headers: { accept: "application/json" }, cache: "no-store" });
      if (!response.ok)
        throw new Error(
          response.status === 401
            ? "a token is wanted: load the page again with it as the password"
            : `the service answers ${response.status}`,
        );
      this.take(named(await response.json()));
      this.place.hidden = false;
    } catch (error) {
      if (this.status === undefined && !(error instanceof TypeError)) this.place.hidden = false;
      this.tell(`no state since ${this.at ?? "the start"}: ${error.message}`);
    }
    this.place.dataset.polls = String(1 + Number(this.place.dataset.polls ?? 0));
  }

  tell(text) {
    if (this.status === undefined) show(this.place, h("div", { class: "box" }, h("p", { class: "bad" }, text)));
    else this.place.querySelector(".state")?.replaceChildren(h("span", { class: "bad" }, text));
  }

  take(status) {
    const served = total(Object.values(status.requests?.rank ?? {}));
    const before = this.history.at(-1);
    const seconds = before ? (status.timestamp - before.time) / 1000 : 0;
    const rate = before && seconds > 0 ? Math.max(0, served - before.served) / seconds : NaN;
    this.history.push({ time: status.timestamp, served, rate, p99: status.latency?.rank?.p99 ?? NaN });
    this.history.splice(0, this.history.length - KEPT);
    this.status = status;
    this.at = new Date(status.timestamp).toISOString().slice(11, 19);
    this.draw();
  }

  draw() {
    const { status } = this;
    const focused = document.activeElement?.id;
    const scrolled = new Map([...this.place.querySelectorAll(".scroll")].map((e) => [e.ariaLabel, e.scrollLeft]));
    const lost = status.store_state && status.store_state !== "reachable"; // of a policy's run it is null
    const ready = status.draining ? "draining" : lost ? "degraded" : "serving";
    show(
      this.place,
      h(
        "div",
        { class: "box" },
        h(
          "div",
          { class: "row" },
          h("h2", {}, "Live ", h("span", { class: `badge ${ready === "serving" ? "better" : "worse"}` }, ready)),
          h(
            "p",
            { class: "facts state" },
            facts([
              ...(status.artifact ? [["artifact", status.artifact]] : []),
              ...(status.store ? [["store", lost ? `${status.store}, ${status.store_state}` : status.store]] : []),
              ["pygrade", status.version],
              ["at", `${this.at} UTC`],
            ]),
          ),
        ),
        (status.warnings ?? []).map((text) => h("p", { class: "bad" }, text)),
        this.cards(),
        this.part("arms", "Arms", armsTable(status)),
        this.part("latency", "Latency by step", latencyTable(status)),
        this.part("drift", "Drift of predictions, and weights", driftTable(status)),
        status.shadows?.length ? this.part("shadows", "Shadow policies", shadowTable(status)) : null,
        this.part("online", "Online learner", onlineTable(status.online)),
        this.part("reloads", "Reloads", reloadTable(status.reloads ?? [])),
      ),
    );
    for (const region of this.place.querySelectorAll(".scroll"))
      region.scrollLeft = scrolled.get(region.ariaLabel) ?? 0;
    if (focused) document.getElementById(focused)?.focus();
  }

  cards() {
    const { latency = {}, degraded = {}, fallback = {}, requests = {} } = this.status;
    const { rate, p99 } = this.history.at(-1);
    const bad = (table) =>
      total(
        Object.entries(table)
          .filter(([name]) => name !== "none")
          .map(([, value]) => value),
      ) / Math.max(1, total(Object.values(table)));
    const failures = Object.values(requests)
      .flatMap((codes) => Object.entries(codes))
      .filter(([code]) => code >= "500");
    const card = (name, value, note, curve) =>
      h(
        "div",
        { class: "card" },
        h("small", {}, name),
        h("b", { class: "number" }, value),
        curve ? sparkline(curve, name) : null,
        h("p", { class: "note" }, note),
      );
    return h(
      "div",
      { class: "cards" },
      card(
        "pages a second",
        Number.isFinite(rate) ? rate.toFixed(1) : "…",
        `${count(this.history.at(-1).served)} since the start`,
        this.history.map((entry) => entry.rate),
      ),
      card(
        "p99 of rank",
        milliseconds(p99),
        `p50 ${milliseconds(latency.rank?.p50)}, p99.9 ${milliseconds(latency.rank?.p999)}`,
        this.history.map((entry) => entry.p99),
      ),
      card(
        "degraded pages",
        share(bad(degraded), 2),
        Object.entries(degraded)
          .filter(([name]) => name !== "none")
          .map(([name, value]) => `${name} ${count(value)}`)
          .join(", "),
      ),
      card("static weights", share(bad(fallback), 2), "pages without the user's features"),
      card("answers 5xx", count(total(failures.map(([, value]) => value))), "of all endpoints"),
    );
  }

  part(id, title, content) {
    if (!this.parts.has(id)) {
      const body = h("div", {});
      this.parts.set(id, {
        body,
        details: h("details", { open: id === "arms" }, h("summary", { id: `live-${id}` }, title), body),
      });
    }
    const { details, body } = this.parts.get(id);
    show(body, content);
    return details;
  }
}

// The status with endpoints called by their last part: rank for /v1/rank.
function named(status) {
  const short = (table) =>
    Object.fromEntries(Object.entries(table ?? {}).map(([name, entry]) => [name.replace(/^.*\//, ""), entry]));
  return { ...status, requests: short(status.requests), latency: short(status.latency) };
}
