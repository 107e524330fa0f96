// Intervals, bars and the front, drawn with elements that scale with their place.
import { h, percent, range, svg, verdictOf } from "./dom.js";

const ROUND = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5];

// The largest |end| of lifts, rounded up, for one scale in a table.
export function reachOf(lifts) {
  const ends = lifts.filter(Boolean).flatMap(({ value, low, high }) => [value, low, high]);
  const most = Math.max(0.005, ...ends.filter(Number.isFinite).map(Math.abs));
  return ROUND.find((size) => size >= most) ?? most;
}

// A lift with its interval, around 0.
export function intervalBar(lift, reach, label = "") {
  const known = lift && Number.isFinite(lift.value);
  const at = (value) => 50 + 50 * Math.max(-1, Math.min(1, value / reach));
  const text = known ? `${label} ${percent(lift.value)}, 95 % interval ${range(lift)}` : `${label} unknown`;
  const parts = [h("i.zero")];
  if (known && Number.isFinite(lift.low)) {
    const [left, right] = [at(lift.low), at(lift.high)];
    parts.push(h("i.band", { style: { left: `${left}%`, width: `${Math.max(right - left, 0.5)}%` } }));
  }
  if (known) parts.push(h("i.dot", { style: { left: `${at(lift.value)}%` } }));
  return h("div", { class: `interval ${verdictOf(lift)}`, role: "img", "aria-label": text.trim() }, parts);
}

// A share from 0 to 1.
export function shareBar(value, className, most = 1) {
  const width = `${Math.min(100, (100 * value) / most)}%`;
  return h("div.share", h("i", { class: className, style: { width } }));
}

// A small curve of the last values.
export function sparkline(values, name) {
  const known = values.map((value, i) => [i, value]).filter(([, value]) => Number.isFinite(value));
  const most = Math.max(...known.map(([, value]) => value), 1e-12);
  const x = (i) => ((100 * i) / Math.max(1, values.length - 1)).toFixed(2);
  const points = known.map(([i, value]) => `${x(i)},${(22 - (20 * value) / most).toFixed(2)}`).join(" ");
  const label = `${name}, the last ${known.length} values`;
  const size = { viewBox: "0 0 100 24", preserveAspectRatio: "none" };
  return svg("svg", { class: "spark", ...size, role: "img", "aria-label": label }, svg("polyline", { points }));
}

// Contributions of tasks to an item: those that lift it to the right of 0, the others to the left. reach: [right, left].
export function stack(parts, [most, least], tasks, className) {
  const whole = Math.max(most + least, 1e-9);
  const zero = (100 * least) / whole;
  const bar = h("div.stack");
  let [right, left] = [zero, zero];
  parts.forEach((value, t) => {
    const width = (100 * Math.abs(value)) / whole;
    if (!(width > 0.4)) return;
    const start = value > 0 ? right : left - width;
    if (value > 0) right += width;
    else left -= width;
    const style = { left: `${start}%`, width: `${width}%` };
    bar.append(h("i", { class: className(t), title: `${tasks[t]} ${value.toFixed(2)}`, style }));
  });
  bar.append(h("i.zero", { style: { left: `${zero}%` } }));
  return bar;
}

// The numbers from `low` to `high`, drawn from `from` to `to`.
class Axis {
  constructor(values, from, to) {
    const known = values.filter(Number.isFinite);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const pad = Math.max(0.002, (high - low) * 0.08);
    Object.assign(this, { low: low - pad, high: high + pad, from, to });
  }

  at(value) {
    return this.from + ((value - this.low) / (this.high - this.low)) * (this.to - this.from);
  }

  clipped(value) {
    return this.at(Math.max(this.low, Math.min(this.high, value)));
  }

  ticks() {
    const { low, high } = this;
    const step = ROUND.find((size) => (high - low) / size <= 6) ?? (high - low) / 4;
    const first = Math.ceil(low / step);
    return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
  }
}

// A scatter of two lifts. points: {x, y (lifts), name, kind, onclick}; kinds: mark, path, knob, yours.
export function scatter(points, paths, width, labels) {
  const height = Math.round(Math.max(260, Math.min(420, width * 0.62)));
  const [left, right, top, bottom] = [56, width - 16, 12, height - 40];
  const x = new Axis(
    points.flatMap((point) => [point.x.value, 0]),
    left,
    right,
  );
  const y = new Axis(
    points.flatMap((point) => [point.y.value, 0]),
    bottom,
    top,
  );
  const line = (x1, x2, y1, y2, name) => svg("line", { x1, x2, y1, y2, class: name });
  const kind = (value) => (value === 0 ? "axis" : "grid");
  const across = x.ticks().flatMap((value) => {
    const at = x.at(value);
    const text = svg("text", { x: at, y: bottom + 16, "text-anchor": "middle" }, tick(value));
    return [line(at, at, top, bottom, kind(value)), text];
  });
  const up = y.ticks().flatMap((value) => {
    const at = y.at(value);
    const text = svg("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, tick(value));
    return [line(left, right, at, at, kind(value)), text];
  });
  const lines = paths.map((path) =>
    svg("polyline", { class: "path", points: path.map((p) => `${x.at(p.x.value)},${y.at(p.y.value)}`).join(" ") }),
  );
  const named = [];
  const spots = points.map((point) => {
    const [px, py] = [x.at(point.x.value), y.at(point.y.value)];
    const title = `${point.name}: ${labels.x} ${percent(point.x.value)}, ${labels.y} ${percent(point.y.value)}`;
    const whiskers = point.kind !== "path" && Number.isFinite(point.x.low);
    return svg(
      "g",
      { class: `point ${point.kind}`, ...(point.onclick ? pressable(title, point.onclick) : {}) },
      svg("title", {}, title),
      whiskers && line(x.clipped(point.x.low), x.clipped(point.x.high), py, py, "whisker"),
      whiskers && line(px, px, y.clipped(point.y.low), y.clipped(point.y.high), "whisker"),
      svg("circle", { cx: px, cy: py, r: point.kind === "path" ? 4 : 6 }),
      point.kind === "mark" && nameOf(point.name, px, py, width, named),
    );
  });
  const size = { width, height, viewBox: `0 0 ${width} ${height}` };
  return svg(
    "svg",
    { ...size, role: "group", "aria-label": `Events of ${labels.x} against ${labels.y}` },
    ...[across, up],
    svg("text", { x: right, y: height - 4, "text-anchor": "end", class: "name" }, `${labels.x} →`),
    svg("text", { x: 4, y: top + 2, class: "name", "dominant-baseline": "hanging" }, `↑ ${labels.y}`),
    ...[lines, spots],
  );
}

// The name of a mark beside it: below where another is near; named: the places of those before it.
function nameOf(name, x, y, width, named) {
  const left = x > width * 0.7;
  const above = !named.some((other) => Math.hypot(other.x - x, other.y - y) < 60);
  named.push({ x, y });
  const place = { x: x + (left ? -10 : 10), y: y + (above ? -9 : 18), "text-anchor": left ? "end" : "start" };
  return svg("text", { ...place, class: "name" }, name);
}

function pressable(title, action) {
  const onkeydown = (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    action();
  };
  return { tabindex: 0, role: "button", "aria-label": title, onclick: action, onkeydown };
}

function tick(value) {
  return value === 0 ? "0" : percent(value, Math.abs(value) < 0.01 ? 1 : 0);
}
