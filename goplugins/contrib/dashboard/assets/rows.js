// The row of a plugin, with its details below when it is opened.

import { fill, mark, spark, timeline } from "./charts.js";
import { Details } from "./details.js";
import { count, el, NONE, percent, rate, replace, seconds, setAttribute, setClass, setText, svg } from "./dom.js";

function figure(label, kind = "") {
  const value = el("span", { class: "value" });
  const cell = el("span", { class: `cell ${kind}` }, el("span", { class: "label" }, `${label} `), value);
  return { cell, value };
}

// A disabled plugin: name and reason only.
export class OffRow {
  constructor(record) {
    this.name = record.name;
    this.record = record;
    const who = el("span", { class: "cell who" }, mark("off"), el("span", { class: "names" }, el("span", { class: "name" }, record.name)));
    const state = el("span", { class: "cell state" }, el("span", { class: "word" }, record.word), el("span", { class: "why" }, record.why));
    this.node = el("li", { class: "switched-off" }, who, state);
  }

  update(record) {
    this.record = record;
  }

  tick() {}

  matches(words) {
    return matches(this.record, words);
  }
}

export class Row {
  constructor(record, act) {
    this.name = record.name;
    this.act = act;
    this.mark = el("span", { class: "mark-of" });
    this.title = el("span", { class: "name" }, record.name);
    this.badge = el("span", { class: "badge", hidden: true });
    this.where = el("span", { class: "where" });
    this.word = el("span", { class: "word" });
    this.why = el("span", { class: "why" });
    this.track = svg("svg", { class: "timeline", viewBox: "0 0 136 10", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.members = el("span", { class: "dots", "aria-hidden": "true" });
    this.breaker = el("span", { class: "under" });
    this.calls = figure("calls per second", "calls");
    this.spark = svg("svg", { class: "spark", viewBox: "0 0 120 26", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.calls.cell.append(this.spark);
    this.errors = figure("errors", "n errors");
    this.latencies = ["p50", "p95", "p99"].map((name) => [name, figure(name, `n ${name}`)]);
    this.open = figure("calls under way", "n open-calls");
    this.limit = figure("limiter", "limit");
    this.gauge = el("span", { class: "gauge", "aria-hidden": "true" });
    this.limit.cell.append(this.gauge);
    const summary = el(
      "summary",
      {},
      el("span", { class: "cell who" }, this.mark, el("span", { class: "names" }, el("span", { class: "first" }, this.title, this.badge), this.where)),
      el("span", { class: "cell state" }, this.word, this.why),
      el("span", { class: "cell breaker" }, el("span", { class: "label" }, "circuit breaker "), this.track, this.members, this.breaker),
      this.calls.cell,
      this.errors.cell,
      ...this.latencies.map(([, each]) => each.cell),
      this.open.cell,
      this.limit.cell,
    );
    this.breakerCell = summary.querySelector(".breaker");
    this.details = el("details", { class: "plugin" }, summary);
    this.node = el("li", {}, this.details);
    this.more = null;
    this.details.addEventListener("toggle", () => this.showDetails());
    this.update(record);
  }

  update(record) {
    this.record = record;
    if (this.severity !== record.severity) {
      this.severity = record.severity;
      this.details.dataset.severity = record.severity;
      replace(this.mark, mark(record.severity));
    }
    setText(this.where, record.endpoint || (record.kind === "group" ? `group, ${record.strategy}` : "in this process"));
    setAttribute(this.where, "title", record.endpoint || null);
    setAttribute(this.title, "title", record.name);
    setText(this.word, record.word);
    setText(this.why, record.why);
    setAttribute(this.why, "title", record.why || null);
    this.badge.hidden = !record.chaos;
    setText(this.badge, record.chaos ? "chaos" : "");
    this.updateFigures(record);
    if (this.details.open) this.more?.update(record);
  }

  updateFigures(record) {
    setText(this.calls.value, rate(record.calls));
    setText(this.errors.value, record.calls ? percent(record.failing) : NONE);
    setClass(this.errors.cell, "bad", record.failing >= 0.1 && record.calls > 0);
    setClass(this.errors.cell, "some", record.failing > 0 && record.failing < 0.1);
    for (const [name, each] of this.latencies) setText(each.value, record.latency.recent ? seconds(record.latency[name]) : NONE);
    setText(this.open.value, count(record.inFlight));
    setClass(this.open.cell, "idle", !record.inFlight);
    const drawn = JSON.stringify(record.spark);
    if (drawn !== this.drawn) {
      this.drawn = drawn;
      spark(this.spark, record.spark);
    }
    const limiter = record.limiter;
    setText(this.limit.value, limiter ? `${count(Math.max(0, Math.floor(limiter.tokens)))} of ${count(limiter.burst)}` : NONE);
    this.gauge.hidden = !limiter;
    if (limiter) fill(this.gauge, limiter.tokens / limiter.burst);
    setClass(this.limit.cell, "bad", Boolean(limiter) && limiter.tokens < 1);
    setClass(this.limit.cell, "none", !limiter);
  }

  // Updates what depends on the time.
  tick(now) {
    const record = this.record;
    const breaker = record.breaker;
    this.track.style.display = breaker ? "" : "none";
    this.members.hidden = Boolean(breaker);
    const since = now - 300;
    setClass(this.breakerCell, "quiet", !breaker || (breaker.state === "closed" && !breaker.changes.some(([at]) => at > since)));
    if (breaker) {
      timeline(this.track, breaker, now);
      setText(this.breaker, breakerText(breaker, now));
    } else {
      const text = JSON.stringify(record.members.map((each) => [each.name, each.severity]));
      if (text !== this.dots) {
        this.dots = text;
        replace(this.members, ...record.members.slice(0, 12).map((each) => mark(each.severity)));
      }
      setText(this.breaker, `${record.members.length} ${record.members.length === 1 ? "member" : "members"}`);
    }
    if (this.details.open) this.more?.tick(now);
  }

  showDetails() {
    if (!this.details.open) return;
    if (this.more === null) {
      this.more = new Details(this.name, this.act);
      this.details.append(this.more.node);
    }
    this.more.update(this.record);
    this.tick(this.act.now());
  }

  matches(words) {
    return matches(this.record, words);
  }
}

function matches(record, words) {
  const { name, endpoint = "", word, severity, labels = {}, annotations = {} } = record;
  const text = [name, endpoint, word, severity, ...Object.entries({ ...labels, ...annotations }).flat()].join("\n").toLowerCase();
  return words.every((each) => text.includes(each));
}

export function breakerText(breaker, now) {
  if (!breaker.enabled && breaker.state === "closed") return "switched off";
  if (breaker.until === null) return breaker.state;
  const left = breaker.until - now;
  return left > 0.5 ? `${breaker.state}, next try in ${seconds(Math.ceil(left))}` : `${breaker.state}, next call tries`;
}
