/* The page as a whole: what is drawn when, what a reader does, and the theme. */

const CHARTS = {
  front: drawFront,
  map: drawMap,
  parallel: drawParallel,
  progress: drawProgress,
  sensitivity: drawSensitivity,
  analysis: drawAnalysis,
};
const DIRTY = new Set();
const VISIBLE = new Set();
const DRAWN = new Set();

function draw(id, traces, laidOut) {
  const chart = byId(id);
  Plotly.react(chart, traces, laidOut, CONFIG);
  if (DRAWN.has(id)) return;
  DRAWN.add(id);
  if (id === "front" || id === "map" || id === "parallel") chart.on("plotly_click", clicked);
}

function clicked(event) {
  const of = event.points.map((point) => point.customdata).find((data) => Array.isArray(data));
  if (!of) return;
  if (of[0] !== STATE.run) showRun(of[0], of[1]);
  else select(of[1]);
}

function redraw(...ids) {
  ids.filter((id) => !byId(id).closest(".panel").hidden).forEach((id) => DIRTY.add(id));
  drawVisible();
}

function drawVisible(all = false) {
  if (!window.Plotly) return; // its script, much the largest, comes last
  for (const id of [...DIRTY]) {
    if (!all && !VISIBLE.has(id)) continue;
    DIRTY.delete(id);
    CHARTS[id]();
  }
}

const SEEN = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) VISIBLE[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    drawVisible();
  },
  { rootMargin: "300px" },
);

function select(row) {
  STATE.row = row;
  drawPoint();
  drawLayers();
  redraw("front", "map", "parallel");
  const chosen = byId("table").querySelector("tr.chosen");
  if (chosen) chosen.classList.remove("chosen");
  byId("table").querySelector(`tr[data-row="${row}"]`)?.classList.add("chosen");
  fill(
    "said",
    row === null
      ? ""
      : `${rowName(row)}: ${figures(row)
          .map(([name, text]) => `${name} ${text}`)
          .join(", ")}`,
  );
}

/* The scores that claims are stated in, where all runs have them, else those that every run has. */
function firstScore(one) {
  const column = one.scores[one.shown];
  const known = DATA.runs
    .filter((each) => each.num_front)
    .every((each) => each.scores.some((other) => setName(other) === setName(column)));
  return known ? one.shown : 0;
}

function showRun(place, row = null) {
  Object.assign(STATE, {
    run: place,
    cost: Math.min(STATE.cost, Math.max(0, DATA.runs[place].costs.length - 1)),
    score: firstScore(DATA.runs[place]),
  });
  Object.assign(SORT, { kind: 0, column: null, shown: PAGE_ROWS });
  STATE.row = row ?? run().knee;
  drawAll();
}

function drawTabs() {
  byId("runs").hidden = DATA.runs.length < 2;
  const tab = (one, place) =>
    button(one.name, () => showRun(place), { role: "tab", "aria-selected": String(place === STATE.run) });
  fill("runs", ...DATA.runs.map(tab));
  [...byId("runs").children].forEach((made, place) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = RUN_COLOURS[place % RUN_COLOURS.length];
    made.prepend(swatch);
  });
}

function drawNotices() {
  const one = run();
  const states = {
    running:
      "This run was under way when the page was written: what follows is what it had found by then. Write the page again for more.",
    interrupted: "This run was interrupted: what follows is what it had found by then.",
  };
  const told = [states[one.state], ...one.notices].filter((text) => text);
  fill("notices", ...told.map((text) => element("p", { class: "notice", role: "note" }, text)));
  fill(
    "summary",
    ...one.summary.map(([name, text]) =>
      element("div", { class: text.length > 40 ? "long" : "" }, element("dt", {}, name), element("dd", {}, text)),
    ),
  );
}

function drawAxes() {
  const one = run();
  const again = () => {
    drawFilters();
    select(STATE.row);
    drawTable();
  };
  const controls = [];
  if (one.costs.length > 1)
    controls.push(
      choose(
        "Cost",
        one.costs.map((column) => column.words),
        STATE.cost,
        (place) => {
          STATE.cost = place;
          again();
        },
      ),
    );
  if (one.scores.length > 1)
    controls.push(
      choose("Score", one.scores.map(setName), STATE.score, (place) => {
        STATE.score = place;
        again();
      }),
    );
  if (one.candidates.kinds.some((kind, row) => kind === "measured" && score().values[row] !== null)) {
    const box = element("input", {
      type: "checkbox",
      checked: STATE.measured,
      onchange: () => {
        STATE.measured = box.checked;
        redraw("front");
      },
    });
    controls.push(element("label", { class: "field" }, box, "other measured candidates"));
  }
  fill("axes", ...controls);
  const savings = one.savings.filter(([name]) => name === cost().name).map(([, text]) => text);
  fill("savings", savings.length ? `Saved ${one.claim}: ${savings.join("; ")}.` : "");
}

/* A slider and a field for a column: what may be asked for lies between the least and the most of the front. */
function filterOf(column) {
  const isScore = "higher_is_better" in column;
  const key = isScore ? setName(column) : column.name;
  const values = column.values.slice(0, run().num_front).filter((value) => value !== null);
  const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  const [words, open] = isScore && column.higher_is_better ? ["at least", low] : ["at most", high];
  const text = `${isScore ? column.name : column.axis.length > 30 ? column.words : column.axis} ${words}`;
  const set = (value, from) => {
    const isOpen = value === "" || Number(value) === open;
    if (isOpen) STATE.limits.delete(key);
    else STATE.limits.set(key, Number(value));
    if (from !== slider) slider.value = isOpen ? open : value;
    if (from !== field) field.value = isOpen ? "" : Number(Number(value).toPrecision(6));
    filtered();
  };
  const slider = element("input", {
    type: "range",
    min: low,
    max: high,
    step: "any",
    "aria-label": text,
    disabled: low === high,
    oninput: () => set(slider.value, slider),
  });
  const field = element("input", {
    type: "number",
    step: "any",
    placeholder: "any",
    "aria-label": `${text}, as a number`,
    onchange: () => set(field.value, field),
  });
  slider.value = STATE.limits.get(key) ?? open;
  field.value = STATE.limits.get(key) ?? "";
  return element("div", { class: "filter" }, element("span", {}, text), slider, field);
}

function drawFilters() {
  byId("filters").closest("fieldset").hidden = !run().num_front;
  if (!run().num_front) return;
  fill(
    "filters",
    ...[score(), ...run().costs]
      .filter((column) => column.values.slice(0, run().num_front).some((value) => value !== null))
      .map(filterOf),
  );
  keptText();
}

function keptText() {
  const count = steps().length;
  const clear = STATE.limits.size
    ? [
        button("Keep all", () => {
          STATE.limits.clear();
          drawFilters();
          filtered();
        }),
      ]
    : [];
  fill("kept", `${count.toLocaleString("en-US")} of ${plural(run().num_front, "point")} kept. `, ...clear);
}

function filtered() {
  keptText();
  const order = steps();
  SORT.shown = PAGE_ROWS;
  drawTable();
  select(STATE.row !== null && (isKept(STATE.row) || !order.length) ? STATE.row : (order[0] ?? null));
}

function drawProgressControls() {
  const option = (text, time) =>
    button(
      text,
      () => {
        STATE.time = time;
        drawProgressControls();
        redraw("progress");
      },
      { "aria-pressed": String(STATE.time === time) },
    );
  fill("progress-controls", option("over passes", false), option("over time", true));
}

function showPanels() {
  const one = run();
  const shown = {
    "map-panel": one.num_front,
    "parallel-panel": one.num_front && objectives(one).length > 2,
    "progress-panel": one.progress,
    "sensitivity-panel": one.sensitivity,
    "analysis-panel": one.analysis,
    "table-panel": one.candidates.kinds.length,
  };
  for (const [id, is] of Object.entries(shown)) byId(id).hidden = !is;
  byId("front").closest(".split").hidden = !one.candidates.kinds.length;
  fill("front-title", one.scores.length ? `${score().name} against ${cost().words}` : "Front");
  byId("front").setAttribute("aria-label", `Front: ${plural(one.num_front, "point")}`);
  fill(
    "sensitivity-help",
    one.sensitivity
      ? `${one.sensitivity.what} of each layer alone at each width, all others in float: lighter is worse.`
      : "",
  );
  fill(
    "analysis-help",
    one.analysis
      ? "How far each quantized tensor is from the float network's: more dB is better. What is infinite is left out."
      : "",
  );
  fill(
    "reference",
    one.progress
      ? `In units of ${one.progress.units}${one.progress.reference ? `, measured against ${one.progress.reference}` : ""}.`
      : "",
  );
}

function drawAll() {
  drawTabs();
  drawNotices();
  drawFacts();
  drawFailures();
  showPanels();
  if (run().candidates.kinds.length) {
    drawAxes();
    drawFilters();
    drawTable();
    select(STATE.row);
  } else {
    byId("layers-panel").hidden = true;
  }
  drawProgressControls();
  redraw("progress", "sensitivity", "analysis");
}

function onKey(event) {
  const order = steps();
  const place = order.indexOf(STATE.row);
  const to = {
    ArrowLeft: place - 1,
    ArrowDown: place - 1,
    ArrowRight: place + 1,
    ArrowUp: place + 1,
    Home: 0,
    End: order.length - 1,
  }[event.key];
  if (to !== undefined) stepTo(to);
  else if (event.key === "Enter") byId("point").focus();
  else return;
  event.preventDefault();
}

/* The theme: the system's unless the reader chooses; a page opened as a file may not be allowed to remember. */
const THEMES = ["system", "light", "dark"];
const SYSTEM_DARK = window.matchMedia("(prefers-color-scheme: dark)");
const remembered = () => {
  try {
    return localStorage.getItem("qexplore-theme");
  } catch {
    return null;
  }
};
let theme = THEMES.includes(remembered()) ? remembered() : "system";

function applyTheme() {
  const dark = !STATE.printing && (theme === "dark" || (theme === "system" && SYSTEM_DARK.matches));
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").textContent = `Theme: ${theme}`;
  if (DRAWN.size) redraw(...DRAWN);
}

/* Charts fit any width by themselves, but what they say depends on it. */
let wasPhone = isPhone();
function resized() {
  if (wasPhone === isPhone()) return;
  wasPhone = isPhone();
  drawLayers();
  redraw(...DRAWN);
}

/* A chart follows the width of its place, whatever changes it: a window, a frame, a turned phone. */
const WIDTHS = new Map();
const FITTED = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const before = WIDTHS.get(target.id);
    WIDTHS.set(target.id, contentRect.width);
    const changed = before !== undefined && Math.abs(before - contentRect.width) > 1;
    if (!changed || !contentRect.width || STATE.printing || !DRAWN.has(target.id)) continue;
    Plotly.relayout(target.id, { autosize: true });
    redraw(target.id);
  }
});

/* Paper is light, narrow, and holds all charts. */
function printing(is) {
  STATE.printing = is;
  applyTheme();
  if (is) drawVisible(true);
}

function switchTheme() {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try {
    localStorage.setItem("qexplore-theme", theme);
  } catch {
    /* not allowed here */
  }
  applyTheme();
}

function begin() {
  fill("footer", `Written by ${DATA.written_by}. This file holds everything it shows and loads nothing.`);
  byId("theme").addEventListener("click", switchTheme);
  byId("print").addEventListener("click", () => window.print());
  byId("front").addEventListener("keydown", onKey);
  SYSTEM_DARK.addEventListener("change", () => applyTheme());
  window.addEventListener("resize", resized);
  window.addEventListener("beforeprint", () => printing(true));
  window.addEventListener("afterprint", () => printing(false));
  applyTheme();
  if (!DATA.runs.length) {
    document.querySelectorAll("main .panel, main .split").forEach((panel) => (panel.hidden = true));
    fill("notices", element("p", { class: "notice" }, DATA.nothing));
    return;
  }
  Object.keys(CHARTS).forEach((id) => {
    SEEN.observe(byId(id));
    FITTED.observe(byId(id));
  });
  document.addEventListener("DOMContentLoaded", () => {
    drawVisible();
    performance.mark("charts");
  });
  fill("unlike", ...DATA.unlike.map((text) => element("p", {}, text)));
  drawCompare();
  showRun(0);
  performance.mark("words");
}

begin();
