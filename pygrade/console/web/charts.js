// Intervals, bars and the front, drawn with elements that scale with their place.
import { h, percent, range, svg, verdictOf } from "./dom.js";

// The largest |end| of lifts, rounded up, for one scale in a table.
export function reachOf(lifts) {
  const ends = lifts
    .filter(Boolean)
    .flatMap(({ value, low, high }) => [value, low, high])
    .filter(Number.isFinite);
  const most = Math.max(0.005, ...ends.map(Math.abs));
  const step = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5].find((size) => size >= most);
  return step ?? most;
}

// A lift with its interval, around 0.
export function intervalBar(lift, reach, label = "") {
  const known = lift && Number.isFinite(lift.value);
  const at = (value) => `${50 + 50 * Math.max(-1, Math.min(1, value / reach))}%`;
  const text = known ? `${label} ${percent(lift.value)}, 95 % interval ${range(lift)}` : `${label} unknown`;
  const bar = h(
    "div",
    { class: `interval ${verdictOf(lift)}`, role: "img", "aria-label": text.trim() },
    h("i", { class: "zero" }),
  );
  if (!known) return bar;
  if (Number.isFinite(lift.low)) {
    const [left, right] = [at(lift.low), at(lift.high)].map(parseFloat);
    bar.append(h("i", { class: "band", style: { left: `${left}%`, width: `${Math.max(right - left, 0.5)}%` } }));
  }
  bar.append(h("i", { class: "dot", style: { left: at(lift.value) } }));
  return bar;
}

// A share from 0 to 1.
export function shareBar(value, className, most = 1) {
  return h(
    "div",
    { class: "share" },
    h("i", { class: className, style: { width: `${Math.min(100, (100 * value) / most)}%` } }),
  );
}

// A small curve of the last values.
export function sparkline(values, name) {
  const known = values.map((value, i) => [i, value]).filter(([, value]) => Number.isFinite(value));
  const most = Math.max(...known.map(([, value]) => value), 1e-12);
  const points = known.map(
    ([i, value]) =>
      `${((100 * i) / Math.max(1, values.length - 1)).toFixed(2)},${(22 - (20 * value) / most).toFixed(2)}`,
  );
  return svg(
    "svg",
    {
      class: "spark",
      viewBox: "0 0 100 24",
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `${name}, the last ${known.length} values`,
    },
    svg("polyline", { points: points.join(" ") }),
  );
}

// Contributions of tasks to an item: those that lift it to the right of 0, the others to the left. reach: [right, left].
export function stack(parts, [most, least], tasks, className) {
  const whole = Math.max(most + least, 1e-9);
  const zero = (100 * least) / whole;
  const bar = h("div", { class: "stack" });
  let [right, left] = [zero, zero];
  parts.forEach((value, t) => {
    const width = (100 * Math.abs(value)) / whole;
    if (!(width > 0.4)) return;
    const start = value > 0 ? right : left - width;
    if (value > 0) right += width;
    else left -= width;
    bar.append(
      h("i", {
        class: className(t),
        title: `${tasks[t]} ${value.toFixed(2)}`,
        style: { left: `${start}%`, width: `${width}%` },
      }),
    );
  });
  bar.append(h("i", { class: "zero", style: { left: `${zero}%` } }));
  return bar;
}

// A scatter of two lifts. points: {x, y (lifts), name, kind, onclick}; kinds: mark, path, knob, yours.
export function scatter(points, paths, width, labels) {
  const height = Math.round(Math.max(260, Math.min(420, width * 0.62)));
  const margin = { left: 56, right: 16, top: 12, bottom: 40 };
  const ends = (axis) => points.flatMap((point) => [point[axis].value, 0]).filter(Number.isFinite);
  const scale = (values, from, to) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const pad = Math.max(0.002, (high - low) * 0.08);
    return {
      low: low - pad,
      high: high + pad,
      at: (v) => from + ((v - low + pad) / (high - low + 2 * pad)) * (to - from),
    };
  };
  const x = scale(ends("x"), margin.left, width - margin.right);
  const y = scale(ends("y"), height - margin.bottom, margin.top);
  const plot = svg("svg", {
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: "group",
    "aria-label": `Events of ${labels.x} against ${labels.y}`,
  });
  for (const value of ticks(x)) {
    plot.append(
      svg("line", {
        x1: x.at(value),
        x2: x.at(value),
        y1: margin.top,
        y2: height - margin.bottom,
        class: value === 0 ? "axis" : "grid",
      }),
      svg("text", { x: x.at(value), y: height - margin.bottom + 16, "text-anchor": "middle" }, tick(value)),
    );
  }
  for (const value of ticks(y)) {
    plot.append(
      svg("line", {
        x1: margin.left,
        x2: width - margin.right,
        y1: y.at(value),
        y2: y.at(value),
        class: value === 0 ? "axis" : "grid",
      }),
      svg("text", { x: margin.left - 8, y: y.at(value) + 4, "text-anchor": "end" }, tick(value)),
    );
  }
  plot.append(
    svg("text", { x: width - margin.right, y: height - 4, "text-anchor": "end", class: "name" }, `${labels.x} →`),
  );
  plot.append(svg("text", { x: 4, y: margin.top + 2, class: "name", "dominant-baseline": "hanging" }, `↑ ${labels.y}`));
  for (const path of paths) {
    plot.append(
      svg("polyline", { class: "path", points: path.map((p) => `${x.at(p.x.value)},${y.at(p.y.value)}`).join(" ") }),
    );
  }
  const named = [];
  for (const point of points) {
    const [px, py] = [x.at(point.x.value), y.at(point.y.value)];
    const clipped = (axis, value) => axis.at(Math.max(axis.low, Math.min(axis.high, value)));
    const title = `${point.name}: ${labels.x} ${percent(point.x.value)}, ${labels.y} ${percent(point.y.value)}`;
    const press = point.onclick
      ? { tabindex: 0, role: "button", "aria-label": title, onclick: point.onclick, onkeydown: pressed(point.onclick) }
      : {};
    const group = svg("g", { class: `point ${point.kind}`, ...press }, svg("title", {}, title));
    if (point.kind !== "path" && Number.isFinite(point.x.low)) {
      group.append(
        svg("line", { x1: clipped(x, point.x.low), x2: clipped(x, point.x.high), y1: py, y2: py, class: "whisker" }),
        svg("line", { x1: px, x2: px, y1: clipped(y, point.y.low), y2: clipped(y, point.y.high), class: "whisker" }),
      );
    }
    group.append(svg("circle", { cx: px, cy: py, r: point.kind === "path" ? 4 : 6 }));
    if (point.kind === "mark") {
      const left = px > width * 0.7;
      const above = !named.some((other) => Math.hypot(other.x - px, other.y - py) < 60);
      named.push({ x: px, y: py });
      group.append(
        svg(
          "text",
          {
            x: px + (left ? -10 : 10),
            y: py + (above ? -9 : 18),
            "text-anchor": left ? "end" : "start",
            class: "name",
          },
          point.name,
        ),
      );
    }
    plot.append(group);
  }
  return plot;
}

function pressed(action) {
  return (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    action();
  };
}

function tick(value) {
  return value === 0 ? "0" : percent(value, Math.abs(value) < 0.01 ? 1 : 0);
}

function ticks({ low, high }) {
  const step = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1].find((size) => (high - low) / size <= 6) ?? (high - low) / 4;
  const result = [];
  for (let n = Math.ceil(low / step); n * step <= high; ++n) result.push(n * step);
  return result;
}
