// The page: keeps the latest data of the server and shows it.

import { count, el, NONE, rate, seconds, setAttribute, setClass, setText } from "./dom.js";
import { mark } from "./charts.js";
import { Feed } from "./feed.js";
import { OffRow, Row } from "./rows.js";

const $ = (id) => document.getElementById(id);
const ORDER = ["down", "degraded", "unknown", "healthy", "off"];
const TITLE = document.title;
const TOKEN = document.querySelector('meta[name="token"]').content;
const STALE = 5; // seconds without data after which the figures are marked as old

const rows = new Map();
let summary = null;
let offset = 0; // the server's clock minus ours, in seconds
let received = 0; // our clock at the last message
let pid = 0;
let paused = false;
let pointerMoved = 0; // time of the last pointer movement over the list

const now = () => Date.now() / 1000 + offset;

// --- actions of operators -----------------------------------------------------------------------------------------

const act = {
  allowed: TOKEN !== "",
  now,

  confirm(question, verb) {
    const dialog = $("confirm");
    setText($("confirm-text"), question);
    setText($("confirm-yes"), verb);
    dialog.returnValue = "";
    dialog.showModal();
    return new Promise((answer) => dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true }));
  },

  async perform(verb, target) {
    try {
      const headers = { "Content-Type": "application/json", "X-Goplugins-Token": TOKEN };
      const reply = await fetch(`actions/${verb}`, { method: "POST", headers, body: JSON.stringify(target) });
      const answer = await reply.json();
      notify(reply.ok ? answer.message : `Rejected: ${answer.error}`, !reply.ok);
    } catch {
      notify("The server does not answer; the action may not have been carried out.", true);
    }
  },

  async configuration(name, element) {
    try {
      const reply = await fetch(name ? `config?plugin=${encodeURIComponent(name)}` : "config", { cache: "no-store" });
      const answer = await reply.json();
      setText(element, reply.ok ? JSON.stringify(answer, null, 2) : answer.error);
    } catch {
      setText(element, "The server does not answer.");
    }
  },
};

let noticeTimer = 0;
function notify(text, bad) {
  const notice = $("notice");
  setClass(notice, "bad", bad);
  setText(notice, text);
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => setText(notice, ""), 8000);
}

// --- messages -----------------------------------------------------------------------------------------------------

const announced = new Map();
const waiting = new Map();

function receive(message) {
  offset = message.at - Date.now() / 1000;
  received = Date.now() / 1000;
  pid = message.pid;
  summary = message.summary;
  const first = rows.size === 0;
  const names = new Set(message.plugins.map((record) => record.name));
  for (const [name, row] of rows) {
    if (!names.has(name)) {
      row.node.remove();
      rows.delete(name);
      announced.delete(name);
    }
  }
  for (const record of message.plugins) {
    const row = rows.get(record.name);
    if (row && (row.record.kind === "off") === (record.kind === "off")) row.update(record);
    else {
      row?.node.remove();
      const made = record.kind === "off" ? new OffRow(record) : new Row(record, act);
      rows.set(record.name, made);
      $("plugins").append(made.node);
    }
    announce(record, first);
  }
  show();
}

function announce(record, first) {
  const before = announced.get(record.name);
  announced.set(record.name, record.severity);
  if (first || before === undefined || before === record.severity) return;
  const why = record.severity === "healthy" || !record.why ? "" : `, ${record.why}`;
  waiting.set(record.name, `${record.name}: ${record.word}${why}`);
}

// For screen readers: at most one announcement in 4 s.
setInterval(() => {
  if (!waiting.size) return;
  const many = `${waiting.size} plugins have changed: ${summary.down} down, ${summary.degraded} degraded`;
  setText($("announcement"), waiting.size > 3 ? many : [...waiting.values()].join("; "));
  waiting.clear();
}, 4000);

// --- the page -----------------------------------------------------------------------------------------------------

const tiles = {};

function makeSummary() {
  for (const severity of ["down", "degraded", "healthy", "unknown"]) {
    const value = el("dd", {});
    const tile = el("div", { class: `tile is-${severity}` }, el("dt", {}, mark(severity), severity), value);
    tiles[severity] = { tile, value };
    $("summary").append(tile);
  }
  for (const [key, label] of [["calls", "calls/s"], ["errors", "errors/s"], ["p95", "p95"], ["inFlight", "in flight"]]) {
    const value = el("dd", {}, NONE);
    const tile = el("div", { class: `tile figure of-${key}` }, el("dt", {}, label), value);
    tiles[key] = { tile, value };
    $("summary").append(tile);
  }
}

function show() {
  for (const severity of ["down", "degraded", "healthy", "unknown"]) {
    setText(tiles[severity].value, String(summary[severity]));
    setClass(tiles[severity].tile, "none", !summary[severity]);
  }
  tiles.unknown.tile.hidden = !summary.unknown;
  setText(tiles.calls.value, rate(summary.calls));
  setText(tiles.errors.value, rate(summary.errors));
  setClass(tiles.errors.tile, "bad", summary.errors >= 0.05 * summary.calls && summary.errors > 0);
  setClass(tiles.errors.tile, "some", summary.errors < 0.05 * summary.calls && summary.errors > 0);
  setText(tiles.p95.value, seconds(summary.p95));
  setText(tiles.inFlight.value, count(summary.inFlight));
  const trouble = summary.down ? `${summary.down} down · ` : summary.degraded ? `${summary.degraded} degraded · ` : "";
  if (document.title !== trouble + TITLE) document.title = trouble + TITLE;
  setText($("process"), `Process ${pid}. Calls of other processes are not counted here.`);
  sort();
  filter();
  tick();
}

function sort() {
  // No row moves shortly before a click.
  if (Date.now() - pointerMoved < 2000) return;
  const list = $("plugins");
  const wanted = [...rows.values()].sort((one, other) => {
    const severity = ORDER.indexOf(one.record.severity) - ORDER.indexOf(other.record.severity);
    return severity || one.name.localeCompare(other.name, "en", { numeric: true });
  });
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  let moved = false;
  wanted.forEach((row, index) => {
    const current = list.children[index];
    if (current !== row.node) {
      list.insertBefore(row.node, current ?? null);
      moved = true;
    }
  });
  if (moved && focused && document.activeElement !== focused) focused.focus({ preventScroll: true });
}

function filter() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows.values()) {
    const hidden = !row.matches(words);
    if (row.node.hidden !== hidden) row.node.hidden = hidden;
    shown += hidden ? 0 : 1;
  }
  $("empty").hidden = shown > 0;
  setText($("empty"), rows.size ? "No plugin matches the filter." : "There are no plugins yet.");
}

function tick() {
  for (const row of rows.values()) if (!row.node.hidden) row.tick(now());
}

// --- state of the feed --------------------------------------------------------------------------------------------

let feedState = "connecting";
let problem = "";

function showFeed() {
  const silent = received ? Date.now() / 1000 - received : 0;
  const lost = !paused && received > 0 && silent > STALE;
  const state = paused ? "paused" : feedState === "lost" || lost ? "lost" : feedState;
  const texts = {
    connecting: "connecting",
    live: "live",
    paused: "paused",
    lost: received ? `no data for ${seconds(Math.round(silent))}: ${problem || "the figures are old"}` : problem || "no answer",
  };
  setAttribute($("feed"), "data-state", state);
  setText($("feed").querySelector(".text"), texts[state]);
  setClass(document.body, "stale", state === "lost" && received > 0);
}

const feed = new Feed({
  message: receive,
  state(next, why) {
    feedState = next;
    problem = why;
    showFeed();
  },
});

function pause(on) {
  paused = on;
  setAttribute($("pause"), "aria-pressed", on);
  setText($("pause"), on ? "Resume" : "Pause");
  if (on) feed.stop();
  else feed.start();
  showFeed();
}

// --- start --------------------------------------------------------------------------------------------------------

makeSummary();
$("pause").addEventListener("click", () => pause(!paused));
$("filter").addEventListener("input", filter);
$("plugins").addEventListener("pointermove", () => (pointerMoved = Date.now()), { passive: true });
$("config").addEventListener("toggle", () => $("config").open && act.configuration("", $("config").querySelector("pre")));
setInterval(() => {
  if (!paused) tick();
  showFeed();
}, 1000);
feed.start();
