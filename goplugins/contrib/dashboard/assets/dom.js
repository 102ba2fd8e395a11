// Elements and number formats. Data becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

export function el(tag, attributes = {}, ...children) {
  return withContent(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return withContent(document.createElementNS(SVG, tag), attributes, children);
}

function withContent(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Changes a node only if its text differs: selections are kept.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function setClass(node, name, on) {
  if (node.classList.contains(name) !== on) node.classList.toggle(name, on);
}

export function replace(node, ...children) {
  node.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

// --- numbers ------------------------------------------------------------------------------------------------------

export const NONE = "–";

export function rate(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0";
  if (value < 0.1) return value < 0.01 ? "<0.01" : value.toFixed(2);
  if (value < 10) return value.toFixed(1);
  return count(value);
}

export function count(value) {
  if (value < 10_000) return String(Math.round(value));
  if (value < 1_000_000) return `${(value / 1000).toFixed(value < 100_000 ? 1 : 0)}k`;
  return `${(value / 1_000_000).toFixed(1)}M`;
}

export function exact(value) {
  return value.toLocaleString("en").replaceAll(",", "\u202f");
}

export function percent(share) {
  if (share === null || share === undefined) return NONE;
  if (share === 0) return "0%";
  if (share < 0.001) return "<0.1%";
  return `${(share * 100).toFixed(share < 0.1 ? 1 : 0)}%`;
}

// A duration in seconds, with its unit.
export function seconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 0.000_995) return `${significant(value * 1e6)} µs`;
  if (value < 0.995) return `${significant(value * 1000)} ms`;
  if (value < 99.5) return `${significant(value)} s`;
  if (value < 5970) return `${Math.round(value / 60)} min`;
  return value < 172_800 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86_400)} d`;
}

function significant(value) {
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

// A duration in the past, in words.
export function ago(elapsed) {
  if (elapsed < 1.5) return "just now";
  if (elapsed < 99.5) return `${Math.round(elapsed)} s ago`;
  if (elapsed < 5970) return `${Math.round(elapsed / 60)} min ago`;
  return elapsed < 172_800 ? `${Math.round(elapsed / 3600)} h ago` : `${Math.round(elapsed / 86_400)} days ago`;
}

export function clock(moment) {
  return new Date(moment * 1000).toLocaleTimeString("en-GB");
}
