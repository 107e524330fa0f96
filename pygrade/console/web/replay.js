// The replay estimator of pygrade/evaluation/replay.py and the intervals of pygrade/metrics/intervals.py.

// The 97.5 % point of Student's t.
export function studentT(degrees) {
  if (!(degrees >= 1)) return NaN;
  const x = 1 / degrees;
  if (degrees < 4) return Math.exp(0.67880123 + x * (1.15189795 + x * (0.9247745 - x * 0.21341269)));
  const z = 1.959963984540054;
  const first = (z ** 3 + z) / 4;
  const second = (5 * z ** 5 + 16 * z ** 3 + 3 * z) / 96;
  const third = (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / 384;
  const fourth = (79 * z ** 9 + 776 * z ** 7 + 1482 * z ** 5 - 1920 * z ** 3 - 945 * z) / 92160;
  return z + x * (first + x * (second + x * (third + x * fourth)));
}

function interval(value, influence, users) {
  const [sums, sizes] = [new Map(), new Map()];
  users.forEach((user, i) => {
    sums.set(user, (sums.get(user) ?? 0) + influence[i]);
    sizes.set(user, (sizes.get(user) ?? 0) + 1);
  });
  const count = sums.size;
  if (count < 2 || !Number.isFinite(value)) return { value, low: NaN, high: NaN };
  let squares = 0;
  for (const sum of sums.values()) squares += sum * sum;
  const error = Math.sqrt((squares * count) / (count - 1)) / influence.length;
  let effective = 0; // number of users: those who have most requests hide their own error
  for (const size of sizes.values()) effective += size * size;
  effective = influence.length ** 2 / effective;
  const reach = error ? studentT(effective - 1) * error : 0;
  return { value, low: value - reach, high: value + reach };
}

// The mean of values, of which NaN are left out.
export function meanOf(values, users) {
  const defined = [...values.keys()].filter((i) => !Number.isNaN(values[i]));
  if (!defined.length) return { value: NaN, low: NaN, high: NaN };
  const value = defined.reduce((sum, i) => sum + values[i], 0) / defined.length;
  return interval(
    value,
    defined.map((i) => values[i] - value),
    defined.map((i) => users[i]),
  );
}

// mean(new) / mean(old) - 1 of paired requests; those with NaN in either are left out of both.
export function meanLift(fresh, old, users) {
  let [count, top, base] = [0, 0, 0];
  for (let i = 0; i < fresh.length; ++i) {
    if (Number.isNaN(fresh[i] + old[i])) continue;
    count += 1;
    top += fresh[i];
    base += old[i];
  }
  if (!count || base === 0) return { value: NaN, low: NaN, high: NaN };
  const value = top / base - 1;
  const scale = fresh.length / base;
  const influence = Array.from(fresh, (a, i) => (Number.isNaN(a + old[i]) ? 0 : (a - (1 + value) * old[i]) * scale));
  return interval(value, influence, Array.from(users));
}

// Metrics of rankings of the shown rows of requests.
export class Replay {
  // judged: offsets, gains and events (dense columns), attention, discount, k
  constructor(judged) {
    Object.assign(this, judged);
    this.best = this.#ideal();
  }

  get requests() {
    return this.offsets.length - 1;
  }

  // The largest Σ_{rank<k} gain / log2(rank + 2) of each request.
  #ideal() {
    return Float64Array.from({ length: this.requests }, (_, r) => {
      const gains = this.gains
        .slice(this.offsets[r], this.offsets[r + 1])
        .sort()
        .reverse();
      return gains.slice(0, this.k).reduce((sum, gain, rank) => sum + gain * this.discount[rank], 0);
    });
  }

  // order[R, width]: the shown rows of each request, best first, -1 after the last.
  metrics(order, width) {
    const result = {
      ndcg: new Float64Array(this.requests),
      value: new Float64Array(this.requests),
      events: this.events.map(() => new Float64Array(this.requests)),
    };
    for (let r = 0; r < this.requests; ++r) {
      let reached = 0;
      for (let rank = 0; rank < Math.min(this.k, width); ++rank) {
        const index = order[r * width + rank];
        if (index < 0) break;
        const row = this.offsets[r] + index;
        reached += this.gains[row] * this.discount[rank];
        result.value[r] += this.attention[rank] * this.gains[row];
        this.events.forEach((column, t) => (result.events[t][r] += this.attention[rank] * column[row]));
      }
      result.ndcg[r] = this.best[r] > 0 ? reached / this.best[r] : NaN;
    }
    return result;
  }
}
