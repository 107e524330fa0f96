// The rankings of the page's requests, by the core, and the value of moved sliders.
import { dense } from "./data.js";
import { meanLift, METRICS, Replay } from "./replay.js";
import { savedPolicy } from "./save.js";

export class Model {
  constructor(core, record) {
    const { requests, judged, tasks } = record;
    const { offsets, positions } = requests;
    Object.assign(this, { core, record, tasks, offsets, k: record.k, requests: offsets.length - 1 });
    const rows = positions.length;
    this.batch = core.batch(requests, tasks.length);
    this.longest = offsets.reduce((most, end, i) => Math.max(most, i ? end - offsets[i - 1] : 0), 1);
    this.events = requests.events.map((column) => dense(column, rows));
    const gains = { gains: dense(judged.gains, rows), events: judged.events.map((column) => dense(column, rows)) };
    this.replay = new Replay({ offsets, positions, ...gains, attention: judged.attention, discount: judged.discount });
    this.arms = record.arms.map((arm) => {
      if (arm.policy === null) return { ...arm, ...this.#logged() };
      const ranked = this.#ranked(this.files(arm.policy), arm.name === record.served);
      return { ...arm, ...ranked, weights: arm.weights ?? (arm.weighs ? ranked.served : null) };
    });
  }

  // The served ranking.
  get served() {
    return this.arm(this.record.served);
  }

  arm(name) {
    return this.arms.find((arm) => arm.name === name);
  }

  // {json, tensors} of a policy of the record.
  files({ json, tensors }) {
    return { json, tensors: this.record.tensors[tensors] };
  }

  // The order of all candidates [R, longest], the first k [R, k], and the served weights [R, T], of a policy.
  #ranked(files, search) {
    const { indices: order, weights: served } = this.core.rank(files, this.batch, this.longest);
    const { categories, embeddings } = this.record.requests; // what page terms read
    const searched = search && (categories || embeddings) && this.core.rank(files, this.batch, this.k, true).indices;
    return { policy: files, order, served, pages: searched || this.#first(order) };
  }

  #first(order) {
    const place = (i) => (i % this.k < this.longest ? Math.floor(i / this.k) * this.longest + (i % this.k) : -1);
    return Int32Array.from({ length: this.requests * this.k }, (_, i) => order[place(i)] ?? -1);
  }

  // What was shown, by its slots; then the others.
  #logged() {
    const { positions } = this.record.requests;
    const order = new Int32Array(this.requests * this.longest).fill(-1);
    for (let r = 0; r < this.requests; ++r) {
      const slots = positions.subarray(this.offsets[r], this.offsets[r + 1]);
      const slot = (i) => (slots[i] < 0 ? Infinity : slots[i]);
      const sorted = [...slots.keys()].sort((a, b) => (slot(a) === slot(b) ? a - b : slot(a) - slot(b)));
      order.set(sorted, r * this.longest);
    }
    const shown = (index, i) => index >= 0 && positions[this.offsets[Math.floor(i / this.k)] + index] >= 0;
    return { order, pages: this.#first(order).map((index, i) => (shown(index, i) ? index : -1)) };
  }

  // The arm that the sliders make: at first the served one, then the policy that they save.
  yours(sliders) {
    if (sliders.mode === "served") return { ...this.served, name: "yours" };
    const files = savedPolicy(this, sliders);
    const weights = sliders.mode === "weights" ? sliders.weights : null;
    return { name: "yours", files, ...this.#ranked(files, true), weights };
  }

  // How many of all candidates of all arms rank where the C++ library ranks them.
  check() {
    let [same, all] = [0, 0];
    for (const { order, ranks } of this.arms) {
      order.forEach((index, i) => {
        if (index < 0) return;
        same += ranks[this.offsets[Math.floor(i / this.longest)] + index] === i % this.longest ? 1 : 0;
        all += 1;
      });
    }
    return { same, all };
  }

  #metrics(arm) {
    return (arm.metrics ??= this.replay.metrics(arm.order, this.longest));
  }

  // Lifts of an arm over another one: {requests, users, events[T]} and `METRICS`; null: they cannot differ.
  lifts(arm, mode, control) {
    const [fresh, base] = [this.#metrics(arm), this.#metrics(this.arm(control))];
    const { evaluation, judged, baseline } = this.record;
    const reasons = evaluation.cannot_differ;
    // Of the served ranking the same intervals as everywhere: those that cover all rankings at once.
    const published = mode === "served" && control === baseline && evaluation.lifts[this.served.name];
    const lift = (metric) => (published ? published[metric] : meanLift(fresh[metric], base[metric], judged.users));
    return {
      requests: published ? evaluation.num_requests : this.requests,
      users: published ? evaluation.num_users : new Set(judged.users).size,
      ...Object.fromEntries(Object.keys(METRICS).map((name) => [name, name in reasons ? null : lift(name)])),
      events: fresh.events.map((column, t) =>
        "value" in reasons ? null : meanLift(column, base.events[t], judged.users),
      ),
    };
  }

  // What each task gives to each candidate of a request, [N, T], centered, 0 of a missing prediction; null without a
  // policy.
  contributions(arm, request) {
    if (!arm.policy) return null;
    if (arm.parts?.request !== request) {
      const [tasks, rows] = [this.tasks.length, this.offsets[request + 1] - this.offsets[request]];
      const weights = arm.served.subarray(request * tasks, (request + 1) * tasks);
      const values = this.core.contributions(arm.policy, this.batch, request, weights, rows);
      const column = (t) => values.filter((value, i) => i % tasks === t && Number.isFinite(value));
      const means = this.tasks.map((_, t) => column(t).reduce((sum, value) => sum + value, 0) / column(t).length);
      const centered = (i, t) => (Number.isFinite(values[i * tasks + t]) ? values[i * tasks + t] - means[t] : 0);
      arm.parts = { request, rows: Array.from({ length: rows }, (_, i) => means.map((_, t) => centered(i, t))) };
    }
    return arm.parts.rows;
  }

  // The weights [T] that rank a request; null of a ranking that has others.
  weightsOf({ weights }, request) {
    const count = this.tasks.length;
    return weights && (weights.length === count ? weights : weights.subarray(request * count, (request + 1) * count));
  }

  // The page of a request, without padding.
  pageOf(arm, request) {
    return [...arm.pages.subarray(request * this.k, (request + 1) * this.k)].filter((index) => index >= 0);
  }

  // The share of each request's page that the other arm does not have there, [R].
  replaced(arm, other) {
    return Float64Array.from({ length: this.requests }, (_, r) => {
      const [own, others] = [this.pageOf(arm, r), new Set(this.pageOf(other, r))];
      return own.length ? own.filter((index) => !others.has(index)).length / own.length : 0;
    });
  }
}
