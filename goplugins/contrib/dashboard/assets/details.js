// Details of one plugin, shown when its row is opened.

import { distribution, mark, spark, trend } from "./charts.js";
import { ago, clock, count, el, exact, NONE, percent, rate, replace, seconds, setText, svg } from "./dom.js";

function panel(title, ...children) {
  return el("section", { class: "panel" }, el("h4", {}, title), ...children);
}

function pairs(entries) {
  return entries.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
}

const IDLE = "No calls in the last minute.";

export class Details {
  constructor(name, act) {
    this.name = name;
    this.act = act;
    this.shown = {};
    this.buttons = el("p", { class: "buttons", hidden: true });
    this.why = el("p", { class: "reason" });
    this.rates = svg("svg", { class: "spark big", viewBox: "0 0 360 72", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.ratesText = el("p", { class: "note" });
    this.spread = svg("svg", { class: "spread", viewBox: "0 0 360 96", "aria-hidden": "true" });
    this.latencies = el("dl", { class: "figures" });
    this.latencyNote = el("p", { class: "note" });
    this.trend = svg("svg", { class: "spark trend", viewBox: "0 0 360 40", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.trendText = el("p", { class: "note" });
    this.failures = el("ol", { class: "failures" });
    this.changes = el("ol", { class: "changes" });
    this.members = el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": `Members of ${name}` });
    this.operations = el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": `Operations of ${name}` });
    this.counts = el("dl", { class: "counts" });
    this.facts = el("dl", { class: "facts" });
    this.config = el("pre", { tabindex: "0", "aria-label": `Configuration of ${name}` });
    this.configDetails = el("details", { class: "config" }, el("summary", {}, "Configuration"), this.config);
    this.configDetails.addEventListener("toggle", () => this.configDetails.open && act.configuration(this.name, this.config));
    this.membersPanel = panel("Members", this.members);
    this.membersPanel.classList.add("wide");
    this.operationsPanel = panel("Operations", this.operations);
    this.operationsPanel.classList.add("wide");
    this.changesPanel = panel("Circuit breaker", this.changes);
    this.node = el(
      "div",
      { class: "more" },
      el("h3", { class: "visually-hidden" }, `About ${name}`),
      this.buttons,
      this.why,
      el(
        "div",
        { class: "panels" },
        this.membersPanel,
        this.operationsPanel,
        panel("Latency", this.spread, this.latencies, this.latencyNote, this.trend, this.trendText),
        panel("Calls and errors, 5 min", this.rates, this.ratesText),
        panel("Last errors", this.failures),
        this.changesPanel,
        panel("Facts", this.facts),
        panel("Counts since start", this.counts),
      ),
      this.configDetails,
    );
  }

  update(record) {
    this.record = record;
    setText(this.why, record.why);
    this.why.hidden = !record.why;
    this.updateButtons(record);
    this.once("spread", record.latency, () => this.drawLatency(record.latency));
    this.once("rates", [record.spark, record.calls, record.errors], () => {
      spark(this.rates, record.spark, { width: 360, height: 72 });
      const top = Math.max(0, ...record.spark.calls.map((each) => each ?? 0));
      const slowest = Math.max(0, ...record.spark.p95.map((each) => each ?? 0));
      this.trend.style.display = slowest ? "" : "none";
      if (slowest) trend(this.trend, record.spark.p95);
      setText(this.trendText, slowest ? `p95, 5 min: at most ${seconds(slowest)}` : "");
      setText(this.ratesText, `${rate(record.calls)} calls/s now, ${rate(record.errors)} errors/s; at most ${rate(top)} calls/s`);
    });
    this.once("counts", [record.counts, record.errorCodes], () => this.drawCounts(record));
    this.once("facts", [record.annotations, record.labels, record.limiter, record.bulkhead, record.chaos, record.endpoint], () => {
      replace(this.facts, ...pairs(facts(record)));
    });
    this.membersPanel.hidden = record.members === null;
    if (record.members !== null) this.once("members", [record.members, record.movable], () => this.drawMembers(record));
    this.operationsPanel.hidden = !record.operations?.length;
    if (record.operations?.length) this.once("operations", record.operations, () => this.drawOperations(record));
    this.changesPanel.hidden = record.breaker === null;
  }

  // Draws only changed parts: selections, the focus and scroll positions are kept.
  once(part, value, draw) {
    const text = JSON.stringify(value);
    if (this.shown[part] !== text) {
      this.shown[part] = text;
      draw();
    }
  }

  tick(now) {
    this.once("failures", [this.record.failures, this.record.failures.map((each) => ago(now - each.at))], () => {
      const items = this.record.failures.map((each) =>
        el(
          "li",
          {},
          el("span", { class: "when" }, `${ago(now - each.at)}${each.n > 1 ? `, ${count(each.n)} in a row` : ""}`),
          el("code", {}, each.code),
          el("span", { class: "text" }, each.text || "(no text)"),
          each.id ? el("span", { class: "id" }, `request ${each.id}`) : null,
        ),
      );
      replace(this.failures, ...(items.length ? items : [el("li", { class: "note" }, "No errors recorded.")]));
    });
    const breaker = this.record.breaker;
    if (breaker === null) return;
    const last = breaker.changes.slice(-6).reverse();
    this.once("changes", [last, last.map(([at]) => ago(now - at)), breaker.trips], () => {
      const items = last.map(([at, old, next]) =>
        el("li", {}, el("span", { class: "when" }, `${clock(at)}, ${ago(now - at)}`), el("span", { class: "text" }, `${old} → ${next}`)),
      );
      const quiet = breaker.trips ? "No change since this dashboard was created." : "It has never opened.";
      replace(this.changes, ...(items.length ? items : [el("li", { class: "note" }, quiet)]));
    });
  }

  drawLatency(latency) {
    distribution(this.spread, latency);
    this.spread.style.display = latency.count ? "" : "none";
    const named = ["p50", "p95", "p99"].map((name) => [name, seconds(latency[name])]);
    replace(this.latencies, ...pairs([...named, ["calls", exact(latency.count)]]));
    setText(this.latencyNote, latency.recent ? "Last minute; the lines mark p50, p95, p99." : latency.count ? `${IDLE} Shown are all calls since the start.` : IDLE);
  }

  drawCounts(record) {
    const codes = Object.entries(record.errorCodes).sort(([, one], [, other]) => other - one);
    replace(
      this.counts,
      ...pairs(Object.entries(record.counts).map(([name, value]) => [name, exact(value)])),
      ...pairs(codes.map(([code, value]) => [`raised ${code}`, exact(value)])),
    );
  }

  drawMembers(record) {
    const total = record.members.reduce((sum, each) => sum + each.minute, 0);
    const acts = this.act.allowed && record.movable;
    const head = ["Member", "State", "Share", "Calls/s", "Failed", "In flight", "Latency", ...(acts ? ["Action"] : [])];
    const numeric = new Set(["Share", "Calls/s", "Failed", "In flight", "Latency"]);
    const body = record.members.map((each) => {
      const share = total ? each.minute / total : 0;
      const bar = el("span", { class: "gauge share", "aria-hidden": "true" });
      bar.style.setProperty("--share", `${Math.round(share * 100)}%`);
      const state = [each.state, each.reason].filter(Boolean).join(": ");
      return el(
        "tr",
        { class: each.severity },
        el("th", { scope: "row" }, el("span", { class: "member" }, mark(each.severity), el("span", {}, each.name)), each.endpoint ? el("span", { class: "where" }, each.endpoint) : null),
        el("td", {}, state, each.lastError && each.severity !== "healthy" ? el("span", { class: "where" }, each.lastError) : null),
        el("td", { class: "n" }, total ? percent(share) : NONE, bar),
        el("td", { class: "n" }, rate(each.calls)),
        el("td", { class: "n" }, each.minute ? percent(each.failed / each.minute) : NONE),
        el("td", { class: "n" }, count(each.active)),
        el("td", { class: "n" }, seconds(each.latency)),
        acts ? el("td", {}, this.memberButton(record.name, each)) : null,
      );
    });
    const columns = head.map((name) => el("th", { scope: "col", class: numeric.has(name) ? "n" : null }, name));
    const focused = this.members.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    replace(
      this.members,
      el("table", {}, el("caption", { class: "visually-hidden" }, `Members of ${record.name}; share and failed over the last minute`), el("thead", {}, el("tr", {}, ...columns)), el("tbody", {}, ...body)),
      record.resolution ? el("p", { class: "note" }, record.resolution) : null,
    );
    if (focused) this.members.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  drawOperations(record) {
    const body = record.operations.map((each) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, each.name, each.target ? el("span", { class: "where" }, each.target) : null),
        el("td", { class: "n" }, rate(each.calls)),
        el("td", { class: "n" }, each.minute ? percent(each.failing) : NONE),
        el("td", { class: "n" }, each.latency.recent ? seconds(each.latency.p95) : NONE),
        el("td", { class: "n" }, exact(each.total)),
        el("td", { class: "n" }, exact(each.raised)),
      ),
    );
    const head = ["Operation", "Calls/s", "Failed", "p95", "Calls since start", "Raised"];
    const columns = head.map((name, place) => el("th", { scope: "col", class: place ? "n" : null }, name));
    const caption = `Operations of ${record.name}; failed and p95 over the last minute`;
    replace(this.operations, el("table", {}, el("caption", { class: "visually-hidden" }, caption), el("thead", {}, el("tr", {}, ...columns)), el("tbody", {}, ...body)));
  }

  memberButton(group, member) {
    const out = member.severity === "off";
    const button = el("button", { type: "button", "data-key": member.name }, out ? "Restore" : "Drain", el("span", { class: "visually-hidden" }, ` ${member.name}`));
    button.addEventListener("click", () => this.act.perform(out ? "restore" : "drain", { plugin: group, member: member.name }));
    return button;
  }

  updateButtons(record) {
    const held = record.breaker?.state === "forced open";
    const wanted = this.act.allowed ? (held ? ["enable"] : record.breaker?.enabled ? ["reset", "disable"] : ["disable"]) : [];
    this.buttons.hidden = !wanted.length;
    this.once("buttons", wanted, () => {
      const had = this.buttons.contains(document.activeElement);
      replace(this.buttons, ...wanted.map((verb) => this.button(verb)));
      if (had) this.buttons.firstElementChild?.focus();
    });
  }

  button(verb) {
    const texts = { reset: "Reset breaker", disable: "Disable…", enable: "Enable" };
    const button = el("button", { type: "button", class: verb === "disable" ? "danger" : null }, texts[verb], el("span", { class: "visually-hidden" }, ` of ${this.name}`));
    button.addEventListener("click", async () => {
      const question = `Reject all calls of ${this.name} in this process until it is enabled again?`;
      if (verb !== "disable" || (await this.act.confirm(question, "Disable"))) this.act.perform(verb, { plugin: this.name });
    });
    return button;
  }
}

function facts(record) {
  const found = [];
  if (record.endpoint) found.push(["endpoint", record.endpoint]);
  if (record.kind === "plugin") {
    found.push(["transport", record.transport || NONE]);
    found.push(["health", record.health.message ? `${record.health.status}: ${record.health.message}` : record.health.status]);
  } else found.push(["strategy", record.strategy]);
  const { limiter, bulkhead } = record;
  if (limiter) found.push(["rate limit", `${rate(limiter.rate)} per ${seconds(limiter.window)}, burst ${exact(limiter.burst)}`]);
  if (bulkhead) found.push(["bulkhead", `${bulkhead.used} of ${exact(bulkhead.limit)} slots used, ${bulkhead.waiting} waiting`]);
  if (record.chaos) found.push(["chaos", record.chaos]);
  for (const [name, value] of Object.entries(record.labels)) found.push([`label ${name}`, value]);
  for (const [name, value] of Object.entries(record.annotations)) found.push([name, value]);
  return found;
}
