/* What charts share, and the front. Each chart is drawn when it comes into view. */

const RUN_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star"];
const PAPER_WIDTH = 660; // of a chart on A4 and Letter
const LEGEND_ROW = 19; // pixels of an entry, of which a phone, and long names of several runs, have one in a row
const MOST_BARS = 300; // intervals beside each other that can still be read
const VIRIDIS = [
  "#440154",
  "#482878",
  "#3e4989",
  "#31688e",
  "#26828e",
  "#1f9e89",
  "#35b779",
  "#6ece58",
  "#b5de2b",
  "#fde725",
];
const CONFIG = { displayModeBar: false, responsive: true, displaylogo: false, doubleClick: "reset" };

const axis = (title, more = {}) => ({
  title: { text: title, standoff: 10 },
  gridcolor: colour("grid"),
  linecolor: colour("line"),
  zeroline: false,
  automargin: true,
  tickcolor: colour("line"),
  ...more,
});

function layout(more) {
  return {
    width: STATE.printing ? PAPER_WIDTH : undefined,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hovermode: "closest",
    dragmode: COARSE.matches ? false : "zoom",
    font: { color: colour("ink"), size: 12, family: "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" },
    margin: { l: 10, r: 16, t: 10, b: 10 },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemclick: false, itemdoubleclick: false },
    hoverlabel: {
      align: "left",
      bgcolor: colour("paper"),
      bordercolor: colour("line"),
      font: { color: colour("ink"), size: 12 },
    },
    ...more,
  };
}

function wrapped(text, most = isPhone() ? 36 : 64) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines[lines.length - 1].length + word.length > most && lines[lines.length - 1]) lines.push("");
    lines[lines.length - 1] += (lines[lines.length - 1] ? " " : "") + word;
  }
  return lines.map(plain).join("<br>");
}

function hover(row, one) {
  const scores = one.scores
    .filter((column) => column.values[row] !== null)
    .map((column) => {
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

/* Which row of which run a mark is; what hovers over it is written when it is looked at: thousands take long. */
const mark = (one, row, text = () => hover(row, one)) =>
  Object.defineProperty([DATA.runs.indexOf(one), row], "text", { get: text });
const HOVER = "%{customdata.text}<extra></extra>";

const points = (rows, one, more) => ({
  x: rows.map((row) => cost(one).values[row]),
  y: rows.map((row) => score(one).values[row]),
  customdata: rows.map((row) => mark(one, row)),
  hovertemplate: HOVER,
  type: "scatter",
  mode: "markers",
  ...more,
});

function intervals(rows, one, shade) {
  const ends = rows.map((row) => score(one).intervals[row]);
  if (rows.length > MOST_BARS || !ends.some((pair) => pair)) return undefined;
  const values = rows.map((row) => score(one).values[row]);
  const away = (side) =>
    ends.map((pair, place) => (pair ? Math.max(0, side ? pair[1] - values[place] : values[place] - pair[0]) : 0));
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
    points(line, one, {
      mode: "lines",
      line: { shape: "hv", color: shade, width: 1.5 },
      hoverinfo: "skip",
      hovertemplate: undefined,
      showlegend: false,
    }),
    points(left, one, { marker: { size, symbol: `${symbol}-open`, color: shade, opacity: 0.35 }, showlegend: false }),
    points(kept, one, {
      marker: { size, symbol, color: shade },
      name: plain(short(label, 40)),
      error_y: intervals(kept, one, `${shade}88`),
    }),
  ];
}

/* Thousands of them take long to draw: at first one stands for all, so that the front is there at once. */
function measuredTraces(one, isFirst) {
  const rows = STATE.measured
    ? range(one.candidates.kinds.length).filter(
        (row) => one.candidates.kinds[row] === "measured" && score(one).values[row] !== null,
      )
    : [];
  if (!rows.length) return [];
  return [
    points(isFirst ? rows.slice(0, 1) : rows, one, {
      marker: { size: 4, color: colour("measured"), opacity: 0.6 },
      name: `measured, not on the front (${rows.length.toLocaleString("en-US")})`,
    }),
  ];
}

function reference(value, name, shade, dash) {
  if (value === null || value === undefined) return [];
  return [
    {
      type: "line",
      xref: "paper",
      x0: 0,
      x1: 1,
      y0: value,
      y1: value,
      line: { color: shade, dash, width: 1.5 },
      layer: "below",
      showlegend: true,
      name: `${name}: ${scoreText(value)}`,
    },
  ];
}

/* A line for each value that runs have: all of one value are one line, and others say whose they are. */
function references(runs, name, of, shade, dash) {
  const values = [...new Set(runs.map(of).filter((value) => value !== null && value !== undefined))];
  return values.flatMap((value) => {
    const same = runs.filter((each) => of(each) === value);
    const more = same.length > 1 ? ` and ${same.length - 1} more` : "";
    const whose = same.length < runs.length ? ` of ${plain(short(same[0].name, isPhone() ? 14 : 24))}${more}` : "";
    const own = RUN_COLOURS[DATA.runs.indexOf(same[0]) % RUN_COLOURS.length];
    return reference(value, `${name}${whose}`, whose ? own : shade, dash);
  });
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
  const ends = (values) =>
    values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  let [low, high] = ends(y);
  let [left, right] = ends(x);
  const tall = high - low || Math.max(0.02 * Math.abs(high), 1e-6);
  const broad = Math.max(right - left, 0.25 * right) || 1;
  for (const one of runs) {
    one.candidates.kinds.forEach((kind, row) => {
      const [value, price] = [score(one).values[row], cost(one).values[row]];
      const near =
        value !== null &&
        value >= low - 0.75 * tall &&
        value <= high + 0.75 * tall &&
        price >= left - 1.5 * broad &&
        price <= right + 1.5 * broad;
      if (kind === "uniform" && near) {
        x.push(price);
        y.push(value, ...(score(one).intervals[row] || []));
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
  return [
    points([one.knee], one, {
      marker: { size: 15, symbol: "circle-open", color: colour("quiet"), line: { width: 1.5 } },
      name: "knee",
      hoverinfo: "skip",
      hovertemplate: undefined,
    }),
  ];
}

function drawFront() {
  const runs = comparable();
  const several = runs.length > 1;
  const one = run();
  const shown = several ? [...runs.filter((each) => each !== one), one] : [one]; // the chosen one on top
  const limits = extent(shown);
  const isFirst = !DRAWN.has("front") && !STATE.printing;
  const beside = baselines([one, ...runs.filter((each) => each !== one)]);
  const traces = [
    ...measuredTraces(one, isFirst),
    ...beside.map((each) => uniformTrace(each, beside.length, several)),
    ...(several ? [] : knees(one)),
    ...shown.flatMap((each) => frontTraces(each, several)),
    {
      ...ring(),
      type: "scatter",
      mode: "markers",
      name: "selected",
      hoverinfo: "skip",
      marker: { size: 20, symbol: "circle-open", color: colour("ink"), line: { width: 3 } },
    },
  ];
  const largest = Math.max(...limits.x.map(Math.abs));
  const levels = [
    ...references(shown, "float network", (each) => score(each).float_score, colour("float"), "dash"),
    ...references(shown, "min_accuracy", (each) => score(each).min_score, colour("quiet"), "dot"),
  ];
  const named = traces.filter((trace) => trace.showlegend !== false).length + (several ? levels.length : 0);
  const isLong = isPhone() || several;
  byId("front").style.height = isLong ? `${400 + LEGEND_ROW * Math.max(0, named - 3)}px` : "";
  const laidOut = layout({
    xaxis: axis(plain(isPhone() ? cost().words : cost().axis), {
      range: limits.x,
      tickformat: largest >= 2e4 ? "~s" : "",
    }),
    yaxis: axis(plain(isPhone() ? score().name : `${setName(score())} (${direction(score())})`), {
      range: limits.y,
    }),
    shapes: levels,
    uirevision: `${STATE.run} ${STATE.cost} ${STATE.score}`,
  });
  draw("front", traces, laidOut);
  // Where names have room is known once the chart has its size; with the same traces a second pass is quick.
  draw("front", traces, { ...laidOut, annotations: uniformNames(byId("front"), beside, shown) });
  if (isFirst) setTimeout(() => redraw("front"), 50);
  byId("unlike").hidden = !several || !DATA.unlike.length;
}
