"use strict";
/* The data, the state of the page, and how things are written. Data is shown as text only, never as HTML. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const STATE = { run: 0, row: null, cost: 0, score: 0, limits: new Map(), measured: true, time: false, printing: false };
const isPhone = () => window.innerWidth <= 560; // as in page.css
const COARSE = window.matchMedia("(pointer: coarse)");

const byId = (id) => document.getElementById(id);
const run = () => DATA.runs[STATE.run];
const range = (count) => Array.from({ length: count }, (_, place) => place);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/* An element with attributes, listeners (names that begin with "on") and children, of which texts stay texts. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const fill = (id, ...children) => byId(id).replaceChildren(...children);
const button = (text, act, attributes = {}) => element("button", { type: "button", onclick: act, ...attributes }, text);

function choose(label, options, value, act) {
  const select = element("select", { onchange: () => act(Number(select.value)) });
  options.forEach((text, place) => select.append(element("option", { value: place, selected: place === value }, text)));
  return element("label", { class: "field" }, label, select);
}

/* Scores and costs as everywhere in qexplore. */
function scoreText(value) {
  if (value === null) return "not known";
  return value === 0 || Math.abs(value) >= 0.01 ? value.toFixed(4) : String(Number(value.toPrecision(4)));
}

function costText(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  const decimals = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  return Math.abs(value) >= 1 ? value.toLocaleString("en-US", decimals) : String(Number(value.toPrecision(4)));
}

const signed = (value, text) => (Math.abs(value) < 1e-12 ? "±0" : (value > 0 ? "+" : "−") + text(Math.abs(value)));
/* Differences of scores, and sensitivities. */
const differenceText = (value) => (value < 0.001 ? String(Number(value.toPrecision(3))) : value.toFixed(4));
const smallText = (value) =>
  value > 0 && value < 1e-4 ? value.toExponential(1) : String(Number(value.toPrecision(3)));

const shareText = (value) =>
  value === 0 ? "0 %" : value > 0 && value < 0.001 ? "<0.1 %" : `${(100 * value).toFixed(1)} %`;
const plural = (count, word) => `${count.toLocaleString("en-US")} ${word}${count === 1 ? "" : "s"}`;
const withUnit = (cost, value) => `${costText(value)}${cost.unit ? ` ${cost.unit}` : ""}`;

/* Plotly reads some tags in its texts: a name that holds one stays as it is. */
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function short(name, most = isPhone() ? 16 : 36) {
  return name.length <= most
    ? name
    : `${name.slice(0, Math.ceil(most / 3))}…${name.slice(1 - Math.floor((2 * most) / 3))}`;
}

/* The points, their choices, and what is known of a row of candidates. */
const choiceOf = (code, one = run()) => one.choices.find((choice) => choice.code === code);
const score = (one = run()) => one.scores.find((column) => setName(column) === setName(run().scores[STATE.score]));
const cost = (one = run()) => one.costs.find((column) => column.name === run().costs[STATE.cost].name);
const setName = (column) => `${column.name} on the ${column.set_name}`;
const direction = (column) => (column.higher_is_better ? "higher is better" : "lower is better");
const isFront = (row, one = run()) => row < one.num_front;
const isBetter = (column, a, b) => (column.higher_is_better ? a > b : a < b);

function rowName(row, one = run()) {
  const label = one.candidates.labels[row];
  return { front: label, uniform: `uniform ${label}`, measured: `measured candidate ${row - one.num_front}` }[
    one.candidates.kinds[row]
  ];
}

const bitWords = (choice) => (String(choice.code) === choice.name ? `${choice.name} bit` : choice.name);

function widthsText(row, one = run()) {
  const codes = one.candidates.num_bits[row];
  const names = new Map(one.choices.map((choice) => [choice.code, choice.name]));
  if (codes.length <= 12) return codes.map((code, place) => `${one.point_names[place]} ${names.get(code)}`).join(", ");
  const counts = new Map();
  for (const code of codes) counts.set(code, (counts.get(code) || 0) + 1);
  const present = one.choices.filter((choice) => counts.has(choice.code));
  return present.map((choice) => `${bitWords(choice)} × ${counts.get(choice.code)}`).join(", ");
}

/* Rows of the front from cheap to costly by the chosen cost. */
function frontByCost(one = run()) {
  const costs = cost(one).values;
  const scores = score(one).values;
  return range(one.num_front).sort((a, b) => costs[a] - costs[b] || (scores[a] ?? 0) - (scores[b] ?? 0) || a - b);
}

/* Whether a candidate is within the limits that the reader has set. */
function isKept(row, one = run()) {
  for (const [name, limit] of STATE.limits) {
    const column = one.scores.find((each) => setName(each) === name) || one.costs.find((each) => each.name === name);
    if (!column) continue;
    const value = column.values[row];
    if (value === null || ("higher_is_better" in column && column.higher_is_better ? value < limit : value > limit))
      return false;
  }
  return true;
}

const steps = () => frontByCost().filter((row) => isKept(row));

function download(name, text, type) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function copied(text) {
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = element("textarea", {}, text); // a page opened as a file may have no clipboard
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  return element("div", { class: "code" }, element("pre", {}, text), copy);
}

const facts = (pairs) => pairs.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]);
