// Small charts, hidden from screen readers: the text beside them has the same information.

import { seconds, svg } from "./dom.js";

const SPAN = 300; // seconds that a timeline shows

// --- state by shape, not by colour alone --------------------------------------------------------------------------

const SHAPES = {
  healthy: ["circle", { cx: 8, cy: 8, r: 5 }],
  degraded: ["path", { d: "M8 2.4 14.2 13.2H1.8Z" }],
  down: ["path", { d: "M3 3h10v10H3Z" }],
  unknown: ["circle", { cx: 8, cy: 8, r: 4.25, class: "hollow" }],
  off: ["path", { d: "M3 8h10", class: "hollow" }],
};

export function mark(severity) {
  const [tag, attributes] = SHAPES[severity] ?? SHAPES.unknown;
  return svg("svg", { viewBox: "0 0 16 16", class: `mark ${severity}`, "aria-hidden": "true" }, svg(tag, attributes));
}

// --- calls and failures -------------------------------------------------------------------------------------------

function runs(values) {
  // Splits the values at gaps (null: no data), which are not drawn.
  const found = [];
  let run = null;
  values.forEach((value, index) => {
    if (value === null) run = null;
    else {
      if (run === null) found.push((run = []));
      run.push([index, value]);
    }
  });
  return found;
}

export function spark(picture, spark_, { width = 120, height = 26 } = {}) {
  const calls = spark_?.calls ?? [];
  const errors = spark_?.errors ?? [];
  const children = [svg("path", { class: "base", d: `M0 ${height - 0.5}H${width}` })];
  if (calls.length) {
    const step = width / calls.length;
    const top = Math.max(...calls.map((value) => value ?? 0)) || 1;
    const y = (value) => height - 1 - (value / top) * (height - 4);
    for (const run of runs(calls)) {
      const line = run.map(([index, value]) => `${((index + 0.5) * step).toFixed(1)} ${y(value).toFixed(1)}`);
      if (run.length === 1) line.push(`${((run[0][0] + 1) * step).toFixed(1)} ${y(run[0][1]).toFixed(1)}`);
      const first = ((run[0][0] + 0.5) * step).toFixed(1);
      const last = line[line.length - 1].split(" ")[0];
      children.push(svg("path", { class: "area", d: `M${first} ${height}L${line.join("L")}L${last} ${height}Z` }));
      children.push(svg("path", { class: "line", d: `M${line.join("L")}` }));
    }
    const bars = errors
      .map((value, index) => (value ? `M${((index + 0.5) * step).toFixed(1)} ${height}V${Math.min(height - 2, y(value)).toFixed(1)}` : ""))
      .join("");
    if (bars) children.push(svg("path", { class: "errors", d: bars, "stroke-width": Math.max(1.2, step * 0.7).toFixed(1) }));
  }
  picture.replaceChildren(...children);
}

// The p95 latency over time, in steps of five seconds.
export function trend(picture, values, { width = 360, height = 40 } = {}) {
  const step = width / values.length;
  const top = Math.max(...values.map((value) => value ?? 0)) || 1;
  const point = ([index, value]) => `${((index + 0.5) * step).toFixed(1)} ${(height - 1 - (value / top) * (height - 5)).toFixed(1)}`;
  const lines = runs(values).map((run) => {
    const points = run.map(point);
    if (points.length === 1) points.push(`${((run[0][0] + 1) * step).toFixed(1)} ${points[0].split(" ")[1]}`);
    return svg("path", { class: "line", d: `M${points.join("L")}` });
  });
  picture.replaceChildren(svg("path", { class: "base", d: `M0 ${height - 0.5}H${width}` }), ...lines);
}

// --- states of the breaker ----------------------------------------------------------------------------------------

const LEVELS = { closed: [8, 1.5], "half-open": [4, 5.5], open: [0, 9.5], "forced open": [0, 9.5] };

export function timeline(picture, breaker, now, { width = 136 } = {}) {
  const from = now - SPAN;
  const changes = breaker.changes;
  const parts = [];
  let state = null;
  let begin = from;
  for (const [at, old, next] of changes) {
    if (state === null) state = old;
    if (at > from) {
      parts.push([begin, at, state]);
      begin = at;
    }
    state = next;
  }
  parts.push([begin, now, breaker.state]);
  const x = (at) => ((at - from) / SPAN) * width;
  picture.replaceChildren(
    ...parts
      .filter(([start, end]) => end > start)
      .map(([start, end, what]) => {
        const [y, height] = LEVELS[what] ?? LEVELS.closed;
        // At least 2 pixels for a short trip.
        const wide = Math.max(x(end) - x(start), what === "closed" ? 0.5 : 2);
        const place = { x: Math.min(x(start), width - wide).toFixed(1), y, width: wide.toFixed(1), height };
        return svg("rect", { ...place, class: what.replace(" ", "-") });
      }),
  );
}

// --- distribution of latencies ------------------------------------------------------------------------------------

export function distribution(picture, latency, { width = 360, height = 96 } = {}) {
  const bars = latency.bars;
  const floor = height - 18;
  if (bars.length < 2) {
    picture.replaceChildren();
    return;
  }
  const most = Math.max(...bars.map(([, count]) => count)) || 1;
  const step = width / (bars.length - 1);
  const [lowest, highest] = [Math.log2(bars[0][0]), Math.log2(bars[bars.length - 1][0])];
  const x = (value) => ((Math.log2(value) - lowest) / (highest - lowest)) * width;
  const children = [];
  bars.slice(0, -1).forEach(([, count], index) => {
    if (!count) return;
    const tall = Math.max(1.5, (count / most) * (floor - 14));
    const place = { x: (index * step + 0.5).toFixed(1), y: (floor - tall).toFixed(1) };
    children.push(svg("rect", { ...place, width: Math.max(1, step - 1).toFixed(1), height: tall.toFixed(1), class: "bar" }));
  });
  children.push(svg("path", { class: "base", d: `M0 ${floor + 0.5}H${width}` }));
  for (const name of ["p50", "p95", "p99"]) {
    const at = Math.min(width - 0.5, Math.max(0.5, x(latency[name])));
    children.push(svg("path", { class: "rule", d: `M${at.toFixed(1)} 10V${floor}` }));
  }
  children.push(svg("text", { x: 0, y: height - 4 }, seconds(bars[0][0])));
  children.push(svg("text", { x: width, y: height - 4, "text-anchor": "end" }, seconds(bars[bars.length - 1][0])));
  picture.replaceChildren(...children);
}

export function fill(node, share) {
  node.style.setProperty("--share", `${Math.round(Math.min(1, Math.max(0, share)) * 100)}%`);
}
