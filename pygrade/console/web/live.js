// The service's state, /v1/status, polled where the page comes from a service; absent in a file.
import { sparkline } from "./charts.js";
import { count, facts, h, note, share, show } from "./dom.js";
import { armsTable, driftTable, latencyTable, onlineTable, reloadTable, shadowTable } from "./live_tables.js";
import { milliseconds, total } from "./live_tables.js";

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
      if (response.status === 401) throw new Error("a token is wanted: load the page again with it as the password");
      if (!response.ok) throw new Error(`the service answers ${response.status}`);
      this.take(named(await response.json()));
      this.place.hidden = false;
    } catch (error) {
      if (this.status === undefined && !(error instanceof TypeError)) this.place.hidden = false;
      this.tell(`no state since ${this.at ?? "the start"}: ${error.message}`);
    }
    this.place.dataset.polls = String(1 + Number(this.place.dataset.polls ?? 0));
  }

  tell(text) {
    if (this.status === undefined) show(this.place, h("div.box", h("p.bad", text)));
    else this.place.querySelector(".state")?.replaceChildren(h("span.bad", text));
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
    const state = [
      ["artifact", status.artifact],
      ["store", status.store && (lost ? `${status.store}, ${status.store_state}` : status.store)],
      ["pygrade", status.version],
      ["at", `${this.at} UTC`],
    ].filter(([, value]) => value);
    const badge = h(ready === "serving" ? "span.badge.better" : "span.badge.worse", ready);
    const box = h(
      "div.box",
      h("div.row", h("h2", "Live ", badge), h("p.facts.state", facts(state))),
      (status.warnings ?? []).map((text) => h("p.bad", text)),
      this.cards(),
      this.part("arms", "Arms", armsTable(status)),
      this.part("latency", "Latency by step", latencyTable(status)),
      this.part("drift", "Drift of predictions, and weights", driftTable(status)),
      status.shadows?.length ? this.part("shadows", "Shadow policies", shadowTable(status)) : null,
      this.part("online", "Online learner", onlineTable(status.online)),
      this.part("reloads", "Reloads", reloadTable(status.reloads)),
    );
    show(this.place, box);
    for (const region of this.place.querySelectorAll(".scroll"))
      region.scrollLeft = scrolled.get(region.ariaLabel) ?? 0;
    if (focused) document.getElementById(focused)?.focus();
  }

  cards() {
    const { latency = {}, degraded = {}, fallback = {}, requests = {} } = this.status;
    const { served, rate, p99 } = this.history.at(-1);
    const badOnes = (table) => Object.entries(table).filter(([name]) => name !== "none");
    const values = (entries) => entries.map(([, value]) => value);
    const bad = (table) => share(total(values(badOnes(table))) / Math.max(1, total(Object.values(table))), 2);
    const codes = Object.values(requests).flatMap((entry) => Object.entries(entry));
    const failures = codes.filter(([code]) => code >= "500");
    const curve = (key, name) =>
      sparkline(
        this.history.map((entry) => entry[key]),
        name,
      );
    const card = (name, value, text, key) =>
      h("div.card", h("small", name), h("b.number", value), key && curve(key, name), note(text));
    const percentiles = `p50 ${milliseconds(latency.rank?.p50)}, p99.9 ${milliseconds(latency.rank?.p999)}`;
    const reasons = badOnes(degraded).map(([name, value]) => `${name} ${count(value)}`);
    return h(
      "div.cards",
      card("pages a second", Number.isFinite(rate) ? rate.toFixed(1) : "…", `${count(served)} since the start`, "rate"),
      card("p99 of rank", milliseconds(p99), percentiles, "p99"),
      card("degraded pages", bad(degraded), reasons.join(", ")),
      card("static weights", bad(fallback), "pages without the user's features"),
      card("answers 5xx", count(total(values(failures))), "of all endpoints"),
    );
  }

  part(id, title, content) {
    if (!this.parts.has(id)) {
      const body = h("div");
      const details = h("details", { open: id === "arms" }, h("summary", { id: `live-${id}` }, title), body);
      this.parts.set(id, { body, details });
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
