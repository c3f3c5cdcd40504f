/* The charts. Each is drawn when it comes into view. */

const RUN_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star"];
const MOST_BARS = 300; // intervals beside each other that can still be read
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const CONFIG = { displayModeBar: false, responsive: true, displaylogo: false, doubleClick: "reset" };

const axis = (title, more = {}) => ({
  title: { text: title, standoff: 10 }, gridcolor: colour("grid"), linecolor: colour("line"), zeroline: false, automargin: true,
  tickcolor: colour("line"), ...more,
});

function layout(more) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: COARSE.matches ? false : "zoom",
    font: { color: colour("ink"), size: 12, family: "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" },
    margin: { l: 10, r: 16, t: 10, b: 10 }, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemclick: false, itemdoubleclick: false },
    hoverlabel: { align: "left", bgcolor: colour("paper"), bordercolor: colour("line"), font: { color: colour("ink"), size: 12 } }, ...more,
  };
}

function wrapped(text, most = PHONE.matches ? 36 : 64) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines[lines.length - 1].length + word.length > most && lines[lines.length - 1]) lines.push("");
    lines[lines.length - 1] += (lines[lines.length - 1] ? " " : "") + word;
  }
  return lines.map(plain).join("<br>");
}

function hover(row, one) {
  const scores = one.scores.filter((column) => column.values[row] !== null).map((column) => {
    const ends = column.intervals[row];
    return `${setName(column)}: ${scoreText(column.values[row])}${ends ? ` (${scoreText(ends[0])} to ${scoreText(ends[1])})` : ""}`;
  });
  const costs = one.costs.map((column) => `${column.words}: ${withUnit(column, column.values[row])}`);
  const name = DATA.runs.length > 1 ? `${one.name}, ${rowName(row, one)}` : rowName(row, one);
  const widths = widthsText(row, one);
  const some = widths.length > 420 ? `${widths.slice(0, 420)}…` : widths;
  return [`<b>${wrapped(name)}</b>`, ...[...scores, ...costs].map((line) => wrapped(line)), wrapped(some)].join("<br>");
}

/* The rows that no cheaper one reaches: a budget between two of them buys the cheaper one, hence steps. */
function onLine(rows, one) {
  const scores = score(one).values;
  let best = null;
  return rows.filter((row) => {
    const beats = scores[row] !== null && (best === null || isBetter(score(one), scores[row], best));
    if (beats) best = scores[row];
    return beats;
  });
}

const points = (rows, one, more) => ({
  x: rows.map((row) => cost(one).values[row]), y: rows.map((row) => score(one).values[row]), customdata: rows.map((row) => [DATA.runs.indexOf(one), row]),
  text: rows.map((row) => hover(row, one)), hovertemplate: "%{text}<extra></extra>", type: "scatter", mode: "markers", ...more,
});

function intervals(rows, one, shade) {
  const ends = rows.map((row) => score(one).intervals[row]);
  if (rows.length > MOST_BARS || !ends.some((pair) => pair)) return undefined;
  const values = rows.map((row) => score(one).values[row]);
  const away = (side) => ends.map((pair, place) => (pair ? Math.max(0, side ? pair[1] - values[place] : values[place] - pair[0]) : 0));
  return { type: "data", symmetric: false, array: away(1), arrayminus: away(0), color: shade, thickness: 1, width: 3 };
}

/* The runs that can stand in one picture with the one that is shown: the same metric and cost. */
function comparable() {
  return DATA.runs.filter((one) => one.num_front && cost(one) && score(one));
}

function frontTraces(one, several) {
  const place = DATA.runs.indexOf(one);
  const shade = several ? RUN_COLOURS[place % RUN_COLOURS.length] : colour("front");
  const symbol = several ? SYMBOLS[place % SYMBOLS.length] : "circle";
  const rows = frontByCost(one).filter((row) => score(one).values[row] !== null);
  const line = onLine(rows, one);
  const kept = rows.filter((row) => isKept(row, one));
  const left = rows.filter((row) => !isKept(row, one));
  const label = several ? one.name : `front${one.verified ? ", verified" : ", not verified"}`;
  const size = rows.length > 400 ? 6 : 9;
  return [
    points(line, one, { mode: "lines", line: { shape: "hv", color: shade, width: 1.5 }, hoverinfo: "skip", hovertemplate: undefined, text: undefined, showlegend: false }),
    points(left, one, { marker: { size, symbol: `${symbol}-open`, color: shade, opacity: 0.35 }, showlegend: false }),
    points(kept, one, { marker: { size, symbol, color: shade }, name: plain(short(label, 40)), error_y: intervals(kept, one, `${shade}88`) }),
  ];
}

function uniformTraces(one, limits, several) {
  const rows = range(one.candidates.kinds.length).filter((row) => one.candidates.kinds[row] === "uniform" && score(one).values[row] !== null);
  if (!rows.length) return [];
  rows.sort((a, b) => cost(one).values[a] - cost(one).values[b]);
  const shade = colour(several ? "quiet" : "uniform");
  const labels = rows.map((row) => `\u00a0\u00a0${plain(one.candidates.labels[row])}\u00a0\u00a0`);
  const side = score(one).higher_is_better ? "bottom" : "top";
  const end = limits.x[0] + 0.8 * (limits.x[1] - limits.x[0]); // beyond it a label has no room to its right
  return [
    points(rows, one, { marker: { size: 9, symbol: several ? "square-open" : "square", color: shade }, name: several ? `uniform widths of ${plain(short(one.name, 24))}` : "uniform widths", error_y: intervals(rows, one, `${shade}88`) }),
    points(rows, one, { mode: "text", text: labels, textposition: rows.map((row) => `${side} ${cost(one).values[row] > end ? "left" : "right"}`), textfont: { color: shade, size: 12 }, hoverinfo: "skip", hovertemplate: undefined, showlegend: false }),
  ];
}

function measuredTraces(one) {
  const rows = STATE.measured ? range(one.candidates.kinds.length).filter((row) => one.candidates.kinds[row] === "measured" && score(one).values[row] !== null) : [];
  if (!rows.length) return [];
  return [points(rows, one, { marker: { size: 4, color: colour("measured"), opacity: 0.6 }, name: `measured, not on the front (${rows.length.toLocaleString("en-US")})` })];
}

function reference(value, name, shade, dash) {
  if (value === null || value === undefined) return [];
  return [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, line: { color: shade, dash, width: 1.5 }, layer: "below", showlegend: true, name: `${name}: ${scoreText(value)}` }];
}

/* What is in the picture at first: the front with its lines of reference, and uniform widths that are not far off. */
function extent(runs) {
  const x = [];
  const y = [];
  for (const one of runs) {
    for (const row of range(one.num_front)) {
      if (score(one).values[row] === null) continue;
      x.push(cost(one).values[row]);
      y.push(score(one).values[row], ...(one.num_front <= MOST_BARS ? score(one).intervals[row] || [] : []));
    }
    y.push(...[score(one).float_score, score(one).min_score].filter((value) => value !== null));
  }
  const ends = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  let [low, high] = ends(y);
  let [left, right] = ends(x);
  const tall = high - low || Math.max(0.02 * Math.abs(high), 1e-6);
  const broad = Math.max(right - left, 0.25 * right) || 1;
  for (const one of runs) {
    one.candidates.kinds.forEach((kind, row) => {
      const [value, price] = [score(one).values[row], cost(one).values[row]];
      const near = value !== null && value >= low - 0.75 * tall && value <= high + 0.75 * tall && price >= left - 1.5 * broad && price <= right + 1.5 * broad;
      if (kind === "uniform" && near) {
        x.push(price);
        y.push(value);
      }
    });
  }
  [low, high] = ends(y);
  [left, right] = ends(x);
  const [up, out] = [0.08 * (high - low) || tall / 2, 0.08 * (right - left) || broad / 2];
  return { x: [left - out, right + out], y: [low - up, high + up] };
}

function ring() {
  if (STATE.row === null || score().values[STATE.row] === null) return { x: [], y: [] };
  return { x: [cost().values[STATE.row]], y: [score().values[STATE.row]] };
}

function knees(one) {
  if (one.knee === null || score(one).values[one.knee] === null) return [];
  return [points([one.knee], one, { marker: { size: 15, symbol: "circle-open", color: colour("quiet"), line: { width: 1.5 } }, name: "knee", hoverinfo: "skip", hovertemplate: undefined, text: undefined })];
}

function drawFront() {
  const runs = comparable();
  const several = runs.length > 1;
  const one = run();
  const shown = several ? runs : [one];
  const limits = extent(shown);
  const traces = [...measuredTraces(one), ...uniformTraces(one, limits, several), ...(several ? [] : knees(one)), ...shown.flatMap((each) => frontTraces(each, several)),
    { ...ring(), type: "scatter", mode: "markers", name: "selected", hoverinfo: "skip", marker: { size: 20, symbol: "circle-open", color: colour("ink"), line: { width: 3 } } }];
  const largest = Math.max(...limits.x.map(Math.abs));
  draw("front", traces, layout({
    xaxis: axis(plain(PHONE.matches ? cost().words : cost().axis), { range: limits.x, tickformat: largest >= 2e4 ? "~s" : "" }), yaxis: axis(plain(PHONE.matches ? score().name : `${setName(score())} (${direction(score())})`), { range: limits.y }),
    shapes: [...reference(score().float_score, "float network", colour("float"), "dash"), ...reference(score().min_score, "min_accuracy", colour("quiet"), "dot")],
    uirevision: `${STATE.run} ${STATE.cost} ${STATE.score}`,
  }));
}

/* Row labels that fit, and the height that they need. */
function rowAxis(names, more = {}) {
  const many = names.length > 200;
  const ticks = many ? {} : { tickmode: "array", tickvals: range(names.length), ticktext: names.map((name) => plain(short(name))) };
  return axis("", { autorange: false, range: [names.length - 0.5, -0.5], showgrid: false, tickfont: { size: names.length > 40 ? 10 : 12 }, ...ticks, ...more });
}

const rowHeight = (count) => `${Math.min(Math.max(count * (count > 40 ? 14 : 20), 120), 3000) + 110}px`;

const bands = (colours) => colours.flatMap((shade, place) => [[place / colours.length, shade], [(place + 1) / colours.length, shade]]);
const colourBar = (title, more = {}) => ({ title: { text: title, side: "right" }, thickness: 12, lenmode: "pixels", len: 180, y: 1, yanchor: "top", outlinewidth: 0, tickcolor: colour("line"), ...more });

function chosenColumn(rows) {
  const place = rows.indexOf(STATE.row);
  return place < 0 ? [] : [{ type: "rect", x0: place - 0.5, x1: place + 0.5, yref: "paper", y0: 0, y1: 1, line: { color: colour("ink"), width: 2 } }];
}

function drawMap() {
  const one = run();
  const rows = frontByCost(one);
  const places = new Map(one.choices.map((choice, place) => [choice.code, place]));
  const cells = one.point_names.map((_, point) => rows.map((row) => places.get(one.candidates.num_bits[row][point])));
  const few = rows.length <= (PHONE.matches ? 10 : 30);
  const step = Math.max(1, Math.ceil(rows.length / (PHONE.matches ? 6 : 24)));
  const ticks = range(rows.length).filter((place) => few || place % step === 0);
  byId("map").style.height = rowHeight(one.point_names.length);
  const trace = {
    type: "heatmap", z: cells, zmin: -0.5, zmax: one.choices.length - 0.5, colorscale: bands(one.choices.map((choice) => choice.colour)), xgap: rows.length < 100 ? 1 : 0, ygap: 1,
    customdata: one.point_names.map(() => rows.map((row) => [STATE.run, row])), hoverinfo: "text",
    text: rows.length * one.point_names.length > 40000 ? undefined : one.point_names.map((name, point) => rows.map((row) => `${wrapped(name)}<br>${rowName(row, one)}: ${choiceOf(one.candidates.num_bits[row][point], one).name}`)),
    colorbar: colourBar("width (bits)", { tickvals: range(one.choices.length), ticktext: one.choices.map((choice) => choice.name) }),
  };
  draw("map", [trace], layout({ xaxis: axis("points of the front, from cheap to costly", { tickvals: ticks, ticktext: ticks.map((place) => rows[place]), range: [-0.5, rows.length - 0.5], showgrid: false }), yaxis: rowAxis(one.short_names), shapes: chosenColumn(rows) }));
}

/* Better is up on every axis, which goes from the worst value on the front to the best. */
function objectives(one) {
  const whole = one.scores.filter((column) => range(one.num_front).every((row) => column.values[row] !== null));
  return [...whole.map((column) => ({ ...column, title: setName(column), up: column.higher_is_better, text: scoreText })),
    ...one.costs.map((column) => ({ ...column, title: column.unit ? `${column.words} (${column.unit})` : column.words, up: false, text: costText }))];
}

function heights(column, count) {
  const values = column.values.slice(0, count);
  const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  return values.map((value) => (high === low ? 0.5 : column.up ? (value - low) / (high - low) : (high - value) / (high - low)));
}

function drawParallel() {
  const one = run();
  const columns = objectives(one);
  const crossings = columns.map((column) => heights(column, one.num_front));
  const best = heights({ ...score(one), up: score(one).higher_is_better, values: score(one).values.map((value) => value ?? 0) }, one.num_front);
  const bins = VIRIDIS.map(() => []);
  best.forEach((height, row) => bins[Math.min(VIRIDIS.length - 1, Math.floor(height * VIRIDIS.length))].push(row));
  const lines = (rows, more) => ({
    type: "scatter", mode: "lines", showlegend: false, hovertemplate: "%{text}<extra></extra>",
    x: rows.flatMap(() => [...range(columns.length), null]), y: rows.flatMap((row) => [...crossings.map((column) => column[row]), null]),
    customdata: rows.flatMap((row) => Array(columns.length + 1).fill([STATE.run, row])), text: rows.flatMap((row) => Array(columns.length + 1).fill(hover(row, one))), ...more,
  });
  const chosen = STATE.row !== null && isFront(STATE.row) ? [lines([STATE.row], { line: { color: colour("ink"), width: 4 }, mode: "lines+markers" })] : [];
  const ends = columns.flatMap((column, place) => {
    const values = column.values.slice(0, one.num_front).sort((a, b) => (column.up ? a - b : b - a));
    const note = (height, value, anchor) => ({ x: place, y: height, text: column.text(value), showarrow: false, yanchor: anchor, font: { size: 12 }, bgcolor: colour("paper") });
    return [note(-0.03, values[0], "top"), note(1.03, values[values.length - 1], "bottom")];
  });
  const posts = columns.map((_, place) => ({ type: "line", x0: place, x1: place, y0: 0, y1: 1, line: { color: colour("quiet"), width: 1 }, layer: "below" }));
  const width = Math.max(10, Math.floor((PHONE.matches ? 44 : 120) / columns.length));
  const names = columns.map((column) => wrapped(column.title.replaceAll("_", " "), width));
  draw("parallel", [...bins.map((rows, place) => lines(rows, { line: { color: VIRIDIS[place], width: 1.5 }, opacity: 0.75 })).filter((trace) => trace.x.length), ...chosen], layout({
    xaxis: axis("", { tickvals: range(columns.length), ticktext: names, range: [-0.4, columns.length - 0.6], showgrid: false, tickangle: 0 }), yaxis: axis("", { visible: false, range: [-0.16, 1.16] }), shapes: posts, annotations: ends, dragmode: false,
  }));
}

function drawProgress() {
  const shown = comparable().filter((one) => one.progress);
  const runs = shown.includes(run()) ? shown : [run()];
  const traces = runs.map((one) => {
    const place = DATA.runs.indexOf(one);
    const shade = runs.length > 1 ? RUN_COLOURS[place % RUN_COLOURS.length] : colour("front");
    return {
      type: "scatter", mode: one.progress.passes.length > 60 ? "lines" : "lines+markers", x: STATE.time ? one.progress.seconds : one.progress.passes, y: one.progress.hypervolume,
      line: { shape: "hv", color: shade, width: 2 }, marker: { symbol: SYMBOLS[place % SYMBOLS.length], size: 6 }, name: plain(short(one.name, 40)), showlegend: runs.length > 1,
    };
  });
  draw("progress", traces, layout({ xaxis: axis(STATE.time ? "seconds" : "full passes over the search set", { rangemode: "tozero" }), yaxis: axis("hypervolume", { rangemode: "tozero" }) }));
}

function drawSensitivity() {
  const { sensitivity, point_names: names, choices } = run();
  const positive = sensitivity.values.flat().filter((value) => value > 0);
  const low = positive.length ? positive.reduce((a, b) => Math.min(a, b)) : 1;
  const cells = sensitivity.values.map((row) => row.map((value) => (value === null ? null : Math.log10(Math.max(value, low)))));
  byId("sensitivity").style.height = rowHeight(names.length);
  const labels = sensitivity.codes.map((code) => choices.find((choice) => choice.code === code).name);
  const [bottom, top] = [Math.log10(low), Math.max(...cells.flat().filter((value) => value !== null), Math.log10(low) + 0.01)];
  const marks = range(5).map((place) => bottom + (place * (top - bottom)) / 4);
  const trace = {
    type: "heatmap", z: cells, zmin: bottom, zmax: top, colorscale: VIRIDIS.map((shade, place) => [place / (VIRIDIS.length - 1), shade]), xgap: 1, ygap: 1, hoverinfo: "text",
    text: names.map((name, point) => labels.map((label, place) => `${wrapped(name)}<br>${label}: ${sensitivity.texts[point][place]}`)), colorbar: colourBar("", { tickvals: marks, ticktext: marks.map((mark) => Number((10 ** mark).toPrecision(2)).toString()) }),
  };
  draw("sensitivity", [trace], layout({ xaxis: axis("width (bits)", { tickvals: range(labels.length), ticktext: labels, showgrid: false }), yaxis: rowAxis(run().short_names) }));
}

function drawAnalysis() {
  const grid = run().analysis;
  byId("analysis").style.height = rowHeight(grid.labels.length);
  const shares = (value) => (value === null ? "not known" : shareText(value));
  const text = grid.labels.map((label, place) => `${wrapped(label)}<br>clipped: ${shares(grid.clipped[place])}<br>range used: ${shares(grid.range_used[place])}`);
  const trace = (values, name, symbol, shade, size) => ({ type: "scatter", mode: "markers", x: values, y: range(values.length), name, text, hovertemplate: "%{text}<br>%{x:.1f} dB<extra></extra>", marker: { symbol, color: shade, size, line: { width: 2 } } });
  const output = grid.output_sqnr === null ? [] : [{ type: "line", x0: grid.output_sqnr, x1: grid.output_sqnr, yref: "paper", y0: 0, y1: 1, line: { color: colour("float"), dash: "dash" }, showlegend: true, name: `output of the network: ${grid.output_sqnr.toFixed(1)} dB` }];
  draw("analysis", [trace(grid.sqnr, "this point alone", "circle-open", colour("front"), 13), trace(grid.sqnr_accumulated, "all points, errors accumulated", "square", colour("uniform"), 7)],
    layout({ xaxis: axis("SQNR (dB)"), yaxis: rowAxis(grid.labels), shapes: output }));
}
