// The rankings of the page's requests: scores, orders, what moved an item, and the value of moved sliders.
import { dense } from "./data.js";
import { meanLift, Replay } from "./replay.js";

export const ORDER_ONLY = "order";

export class Model {
  constructor(core, record) {
    this.core = core;
    this.record = record;
    this.tasks = record.tasks;
    this.k = record.k;
    const { policy, browsed, judged } = record;
    this.formula = { transform: policy.transform, beta: policy.beta, epsilon: policy.epsilon, slope: policy.slope };
    this.identity = { ...this.formula, transform: 0 };
    this.offsets = browsed.offsets;
    this.requests = browsed.requests.length;
    // What rankings weigh: the log's own predictions, corrected ones, those of the policy's network, of the sliders.
    const given = { own: core.keep(browsed.predictions) };
    for (const name of ["corrected", "weighed", "slid"])
      given[name] = browsed[name] ? core.keep(browsed[name]) : given.own;
    this.given = given;
    this.numbers = Object.fromEntries(Object.keys(given).map((name) => [name, browsed[name] ?? browsed.predictions]));
    this.keptOffsets = core.keep(this.offsets);
    this.prices = core.keep(browsed.prices);
    this.context = core.keep(browsed.context);
    this.scenario = core.keep(browsed.scenario);
    this.transformed = {};
    this.#prepareSearch(policy.page_terms, browsed);
    this.events = browsed.events.map((column) => dense(column, browsed.items.length));
    this.network = policy.network ? core.makePolicy(policy.network, this.T, this.formula) : null;
    this.arms = record.arms.map((arm) => ({ ...arm, scores: this.#scoresOf(arm) }));
    for (const arm of this.arms) arm.pages = this.#pagesOf(arm);
    this.#prepareReplay(judged);
  }

  get T() {
    return this.tasks.length;
  }

  rows(request) {
    return [this.offsets[request], this.offsets[request + 1]];
  }

  arm(name) {
    return this.arms.find((arm) => arm.name === name);
  }

  #priced(baseline) {
    return this.tasks.map((task) => baseline.value_tasks.includes(task));
  }

  // The served ranking.
  get served() {
    return this.arm(this.record.names.served);
  }

  #baseline(baseline, multipliers = null) {
    const formula = { ...this.formula, transform: this.record.policy.transforms.indexOf(baseline.transform) };
    const given = this.given[sourceOf(baseline)];
    const priced = this.#priced(baseline);
    return this.core.baseline(given, this.keptOffsets, this.T, baseline, formula, multipliers, priced, this.prices);
  }

  #scoresOf(arm) {
    if (arm.kind === ORDER_ONLY) {
      return Float32Array.from(this.record.browsed.positions, (slot) => (slot < 0 ? -Infinity : -slot));
    }
    if (arm.kind === "baseline") return this.#baseline(arm.baseline, arm.multipliers);
    const fused = arm.challenger
      ? this.#baseline(arm.challenger, arm.multipliers)
      : this.core.fuse(this.given[arm.source ?? "weighed"], this.keptOffsets, this.T, arm.weights, this.formula);
    if (arm.kind === "weights") return fused;
    return this.core.mix(this.#baseline(arm.baseline, arm.multipliers), fused, this.keptOffsets, arm.trust);
  }

  // The arm that the sliders make, at first the served one: {kind, weights, …, scores, pages}. boosts and caps: see
  // `rules` of Core.rank.
  yours(sliders, rules = {}) {
    let arm = { kind: "weights", source: "slid", weights: sliders.weights };
    if (sliders.mode === "served") arm = this.served;
    else if (sliders.mode === "tradeoffs") arm = this.#turned(sliders.multipliers);
    const scores = arm.scores ?? this.#scoresOf(arm);
    const { strength } = sliders;
    return { ...arm, name: "yours", rules, strength, scores, pages: this.#pageOf(arm, scores, rules, strength) };
  }

  // What page terms read of the candidates; no terms without any of it.
  #prepareSearch(terms, browsed) {
    const { categories, embeddings } = browsed;
    this.terms = terms && (categories || embeddings) ? terms : null;
    if (!this.terms) return;
    const { dimension } = terms;
    const units = embeddings && new Float32Array(embeddings.place.length * dimension);
    embeddings?.place.forEach((at, row) => {
      if (at >= 0) units.set(embeddings.vectors.subarray(at * dimension, (at + 1) * dimension), row * dimension);
    });
    this.codes = this.core.keep(categories);
    this.units = this.core.keep(units);
  }

  // Whether page terms make the pages of an arm: those of one expected value of corrected predictions.
  searches({ kind, baseline }) {
    if (this.terms === null || kind !== "baseline") return false;
    return baseline.corrected && baseline.transform === "identity" && !baseline.logarithm;
  }

  // The page of an arm, searched by page terms of a strength from 0 (in the order of the scores) to 1 (as learned).
  #pageOf(arm, scores, rules, strength) {
    if (!(strength > 0) || !this.searches(arm)) return this.order(scores, this.k, rules);
    const through = Float32Array.from(this.terms.through, (counts, t) => (counts ? (arm.multipliers?.[t] ?? 1) : 0));
    const root = this.#baseline(arm.baseline, through);
    return this.core.search(this.terms, strength, scores, root, this.codes, this.units, this.keptOffsets, this.k, rules);
  }

  // What the policy serves at multipliers of the tasks' values.
  #turned(multipliers) {
    const { policy } = this.record;
    const { trust, baseline, challenger } = policy.mixture ?? { trust: 1 };
    const mixed = trust < 1 ? { kind: "mixture", baseline, trust } : { kind: "weights" };
    if (challenger) {
      const own = trust < 1 ? { ...mixed, challenger } : { kind: "baseline", baseline: challenger };
      return { ...own, multipliers };
    }
    const given = this.given[sourceOf(policy)];
    const inputs = [this.context, given, this.keptOffsets, this.T, this.scenario];
    const weights = this.core.policyWeights(this.network, ...inputs, multipliers);
    return { ...mixed, source: "weighed", weights, multipliers };
  }

  // The k best of each request, -1 after the last.
  order(scores, k, rules) {
    return this.core.rank(scores, this.keptOffsets, k, rules);
  }

  // The k best of each request; a logged page ends with its last slot.
  #pagesOf(arm) {
    const pages = this.#pageOf(arm, arm.scores, {}, arm.name === this.record.names.served ? 1 : 0);
    if (arm.kind !== ORDER_ONLY) return pages;
    const { positions } = this.record.browsed;
    const shown = (index, i) => index >= 0 && positions[this.offsets[Math.floor(i / this.k)] + index] >= 0;
    return pages.map((index, i) => (shown(index, i) ? index : -1));
  }

  // How many of all candidates of all arms rank where the C++ core ranks them.
  check() {
    const longest = longestOf(this.offsets);
    let [same, all] = [0, 0];
    for (const arm of this.arms) {
      const order = this.order(arm.scores, longest);
      for (let r = 0; r < this.requests; ++r) {
        for (let rank = 0; rank < this.offsets[r + 1] - this.offsets[r]; ++rank) {
          same += arm.ranks[this.offsets[r] + order[r * longest + rank]] === rank ? 1 : 0;
          all += 1;
        }
      }
    }
    return { same, all };
  }

  #prepareReplay(judged) {
    const rows = judged.offsets[judged.offsets.length - 1];
    this.judged = judged;
    this.replay = new Replay({
      offsets: judged.offsets,
      gains: dense(judged.gains, rows),
      events: judged.events.map((column) => dense(column, rows)),
      attention: judged.attention,
      discount: judged.discount,
      k: this.k,
    });
    this.shownRows = this.core.keep(judged.transformed);
    this.shownOffsets = this.core.keep(judged.offsets);
    this.longestPage = Math.max(1, longestOf(judged.offsets));
  }

  // Metrics by request of static weights on all judged requests, or of an arm on those that the page holds.
  #metrics(arm, sliders) {
    const replayed = (scores) =>
      this.replay.metrics(this.core.rank(scores, this.shownOffsets, this.longestPage), this.longestPage);
    if (sliders.mode === "served") return { chosen: null, ...this.judged.arms[this.served.name] };
    if (sliders.mode === "weights") {
      const scores = this.core.fuse(this.shownRows, this.shownOffsets, this.T, sliders.weights, this.identity);
      return { chosen: null, ...replayed(scores) };
    }
    const { browsed } = this.record;
    const scores = new Float32Array(this.judged.offsets[this.judged.offsets.length - 1]).fill(NaN);
    for (let r = 0; r < this.requests; ++r) {
      let at = this.judged.offsets[browsed.judged[r]];
      for (let row = this.offsets[r]; row < this.offsets[r + 1]; ++row) {
        if (browsed.positions[row] >= 0) scores[at++] = arm.scores[row];
      }
    }
    return { chosen: browsed.judged, ...replayed(scores) };
  }

  // Lifts of the sliders' arm over another one: {requests, users, value, ndcg, events[T]}.
  lifts(arm, sliders, over) {
    const found = this.#metrics(arm, sliders);
    const base = this.judged.arms[over];
    const pick = (column) => (found.chosen === null ? column : Float64Array.from(found.chosen, (r) => column[r]));
    const users = pick(this.judged.users);
    const lift = (fresh, old) => meanLift(pick(fresh), pick(old), users);
    const known = this.record.evaluation.cannot_differ;
    // Of the served ranking the same intervals as everywhere: those that cover all rankings at once.
    const covered = sliders.mode === "served" && over === this.record.baseline;
    const told = covered && this.record.evaluation.lifts[this.served.name];
    const replayed = (metric) => (told ? told[metric] : lift(found[metric], base[metric]));
    return {
      requests: told ? this.record.evaluation.num_requests : users.length,
      users: told ? this.record.evaluation.num_users : new Set(users).size,
      value: "value" in known ? null : replayed("value"),
      ndcg: "ndcg" in known ? null : replayed("ndcg"),
      events: found.events.map((column, t) => ("value" in known ? null : lift(column, base.events[t]))),
    };
  }

  // What each task gives to each candidate of a request, [N, T]: centered, in standard deviations of the score. null if
  // the arm is an order alone.
  contributions(arm, request) {
    const [first, end] = this.rows(request);
    if (arm.kind === ORDER_ONLY) return null;
    const policyParts = () => {
      const weights = arm.weights.length === this.T ? arm.weights : arm.weights.subarray(request * this.T);
      const f = this.#transformed(arm.source ?? "weighed", this.record.policy.transform);
      return centered(first, end, this.T, (row, t) => weights[t] * f[row * this.T + t]);
    };
    if (arm.kind === "weights") return policyParts();
    const base = this.#baselineParts(arm.baseline, arm.multipliers, first, end);
    if (arm.kind === "baseline") return base;
    const parts = arm.challenger ? this.#baselineParts(arm.challenger, arm.multipliers, first, end) : policyParts();
    return parts.map((value, i) => arm.trust * value + (1 - arm.trust) * base[i]);
  }

  // f(p) of all rows, [M, T].
  #transformed(source, kind) {
    const name = `${source} ${kind}`;
    const formula = { ...this.formula, transform: kind };
    this.transformed[name] ??= this.core.transform(this.given[source], this.keptOffsets, this.T, formula);
    return this.transformed[name];
  }

  #baselineParts(baseline, u, first, end) {
    const kind = this.record.policy.transforms.indexOf(baseline.transform);
    const priced = this.#priced(baseline);
    const { prices } = this.record.browsed;
    const source = sourceOf(baseline);
    const f = this.#transformed(source, kind);
    return centered(first, end, this.T, (row, t) => {
      let value = f[row * this.T + t];
      if (kind === 0 && baseline.calibration.length)
        value = piecewise(baseline.calibration[t], this.numbers[source][row * this.T + t]);
      return baseline.weights[t] * (u ? u[t] : 1) * value * (priced[t] && prices ? prices[row] : 1);
    });
  }

  // The share of each request's first k that the other arm does not have there, [R].
  replaced(pages, others) {
    return Float64Array.from({ length: this.requests }, (_, r) => {
      const page = (list) => [...list.subarray(r * this.k, (r + 1) * this.k)].filter((index) => index >= 0);
      const other = new Set(page(others));
      const own = page(pages);
      return own.length ? own.filter((index) => !other.has(index)).length / own.length : 0;
    });
  }
}

// The predictions that a baseline ranks by, or a policy's network reads.
function sourceOf({ corrected }) {
  return corrected ? "corrected" : "own";
}

function longestOf(offsets) {
  return offsets.reduce((most, end, i) => Math.max(most, i ? end - offsets[i - 1] : 0), 0);
}

function centered(first, end, tasks, part) {
  const rows = end - first;
  const values = Float64Array.from({ length: rows * tasks }, (_, i) => part(first + Math.floor(i / tasks), i % tasks));
  let square = 0;
  for (let t = 0; t < tasks; ++t) {
    let mean = 0;
    for (let i = 0; i < rows; ++i) mean += values[i * tasks + t] / rows;
    for (let i = 0; i < rows; ++i) values[i * tasks + t] -= mean;
  }
  for (let i = 0; i < rows; ++i) {
    let score = 0;
    for (let t = 0; t < tasks; ++t) score += values[i * tasks + t];
    square += (score * score) / rows;
  }
  return values.map((value) => value / (Math.sqrt(square) + 1e-12));
}

function piecewise([x, y], p) {
  let i = 0;
  while (i + 2 < x.length && p >= x[i + 1]) i += 1;
  return y[i] + ((p - x[i]) * (y[i + 1] - y[i])) / (x[i + 1] - x[i]);
}
