/* The charts of layers, of all objectives, and of the search. */

/* Row labels that fit, and the height that they need. */
function rowAxis(names, more = {}) {
  const many = names.length > 200;
  const ticks = many
    ? {}
    : { tickmode: "array", tickvals: range(names.length), ticktext: names.map((name) => plain(short(name))) };
  return axis("", {
    autorange: false,
    range: [names.length - 0.5, -0.5],
    showgrid: false,
    tickfont: { size: names.length > 40 ? 10 : 12 },
    ...ticks,
    ...more,
  });
}

const rowHeight = (count) => `${Math.min(Math.max(count * (count > 40 ? 14 : 20), 120), 3000) + 110}px`;

const bands = (colours) =>
  colours.flatMap((shade, place) => [
    [place / colours.length, shade],
    [(place + 1) / colours.length, shade],
  ]);
const colourBar = (title, more = {}) => ({
  title: { text: title, side: "right" },
  thickness: 12,
  lenmode: "pixels",
  len: 180,
  y: 1,
  yanchor: "top",
  outlinewidth: 0,
  tickcolor: colour("line"),
  ...more,
});

function chosenColumn(rows) {
  const place = rows.indexOf(STATE.row);
  return place < 0
    ? []
    : [
        {
          type: "rect",
          x0: place - 0.5,
          x1: place + 0.5,
          yref: "paper",
          y0: 0,
          y1: 1,
          line: { color: colour("ink"), width: 2 },
        },
      ];
}

function drawMap() {
  const one = run();
  const rows = frontByCost(one);
  const places = new Map(one.choices.map((choice, place) => [choice.code, place]));
  const cells = one.point_names.map((_, point) => rows.map((row) => places.get(one.candidates.num_bits[row][point])));
  const few = rows.length <= (isPhone() ? 10 : 30);
  const step = Math.max(1, Math.ceil(rows.length / (isPhone() ? 6 : 24)));
  const ticks = range(rows.length).filter((place) => few || place % step === 0);
  byId("map").style.height = rowHeight(one.point_names.length);
  const trace = {
    type: "heatmap",
    z: cells,
    zmin: -0.5,
    zmax: one.choices.length - 0.5,
    colorscale: bands(one.choices.map((choice) => choice.colour)),
    xgap: rows.length < 100 ? 1 : 0,
    ygap: 1,
    customdata: one.point_names.map((name, point) =>
      rows.map((row) =>
        mark(
          one,
          row,
          () => `${wrapped(name)}<br>${rowName(row, one)}: ${choiceOf(one.candidates.num_bits[row][point], one).name}`,
        ),
      ),
    ),
    hovertemplate: HOVER,
    colorbar: colourBar("width (bits)", {
      tickvals: range(one.choices.length),
      ticktext: one.choices.map((choice) => choice.name),
    }),
  };
  draw(
    "map",
    [trace],
    layout({
      xaxis: axis("points of the front, from cheap to costly", {
        tickvals: ticks,
        ticktext: ticks.map((place) => rows[place]),
        range: [-0.5, rows.length - 0.5],
        showgrid: false,
      }),
      yaxis: rowAxis(one.short_names),
      shapes: chosenColumn(rows),
    }),
  );
}

/* Better is up on every axis, which goes from the worst value on the front to the best. */
function objectives(one) {
  const whole = one.scores.filter((column) => range(one.num_front).every((row) => column.values[row] !== null));
  return [
    ...whole.map((column) => ({ ...column, title: setName(column), up: column.higher_is_better, text: scoreText })),
    ...one.costs.map((column) => ({
      ...column,
      title: column.unit ? `${column.words} (${column.unit})` : column.words,
      up: false,
      text: costText,
    })),
  ];
}

function heights(column, count) {
  const values = column.values.slice(0, count);
  const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  return values.map((value) =>
    high === low ? 0.5 : column.up ? (value - low) / (high - low) : (high - value) / (high - low),
  );
}

function drawParallel() {
  const one = run();
  const columns = objectives(one);
  const crossings = columns.map((column) => heights(column, one.num_front));
  const best = heights(
    { ...score(one), up: score(one).higher_is_better, values: score(one).values.map((value) => value ?? 0) },
    one.num_front,
  );
  const bins = VIRIDIS.map(() => []);
  best.forEach((height, row) => bins[Math.min(VIRIDIS.length - 1, Math.floor(height * VIRIDIS.length))].push(row));
  const lines = (rows, more) => ({
    type: "scatter",
    mode: "lines",
    showlegend: false,
    hovertemplate: HOVER,
    x: rows.flatMap(() => [...range(columns.length), null]),
    y: rows.flatMap((row) => [...crossings.map((column) => column[row]), null]),
    customdata: rows.flatMap((row) => Array(columns.length + 1).fill(mark(one, row))),
    ...more,
  });
  const chosen =
    STATE.row !== null && isFront(STATE.row)
      ? [lines([STATE.row], { line: { color: colour("ink"), width: 4 }, mode: "lines+markers" })]
      : [];
  const ends = columns.flatMap((column, place) => {
    const values = column.values.slice(0, one.num_front).sort((a, b) => (column.up ? a - b : b - a));
    const note = (height, value, anchor) => ({
      x: place,
      y: height,
      text: column.text(value),
      showarrow: false,
      yanchor: anchor,
      font: { size: 12 },
      bgcolor: colour("paper"),
    });
    return [note(-0.03, values[0], "top"), note(1.03, values[values.length - 1], "bottom")];
  });
  const posts = columns.map((_, place) => ({
    type: "line",
    x0: place,
    x1: place,
    y0: 0,
    y1: 1,
    line: { color: colour("quiet"), width: 1 },
    layer: "below",
  }));
  const width = Math.max(10, Math.floor((isPhone() ? 44 : 120) / columns.length));
  const names = columns.map((column) => wrapped(column.title.replaceAll("_", " "), width));
  draw(
    "parallel",
    [
      ...bins
        .map((rows, place) => lines(rows, { line: { color: VIRIDIS[place], width: 1.5 }, opacity: 0.75 }))
        .filter((trace) => trace.x.length),
      ...chosen,
    ],
    layout({
      xaxis: axis("", {
        tickvals: range(columns.length),
        ticktext: names,
        range: [-0.4, columns.length - 0.6],
        showgrid: false,
        tickangle: 0,
      }),
      yaxis: axis("", { visible: false, range: [-0.16, 1.16] }),
      shapes: posts,
      annotations: ends,
      dragmode: false,
    }),
  );
}

function drawProgress() {
  const shown = comparable().filter((one) => one.progress);
  const runs = shown.includes(run()) ? shown : [run()];
  const traces = runs.map((one) => {
    const place = DATA.runs.indexOf(one);
    const shade = runs.length > 1 ? RUN_COLOURS[place % RUN_COLOURS.length] : colour("front");
    return {
      type: "scatter",
      mode: one.progress.passes.length > 60 ? "lines" : "lines+markers",
      x: STATE.time ? one.progress.seconds : one.progress.passes,
      y: one.progress.hypervolume,
      line: { shape: "hv", color: shade, width: 2 },
      marker: { symbol: SYMBOLS[place % SYMBOLS.length], size: 6 },
      name: plain(short(one.name, 40)),
      showlegend: runs.length > 1,
    };
  });
  draw(
    "progress",
    traces,
    layout({
      xaxis: axis(STATE.time ? "seconds" : "full passes over the search set", { rangemode: "tozero" }),
      yaxis: axis("hypervolume", { rangemode: "tozero" }),
    }),
  );
}

function drawSensitivity() {
  const { sensitivity, point_names: names, choices } = run();
  const positive = sensitivity.values.flat().filter((value) => value > 0);
  const low = positive.length ? positive.reduce((a, b) => Math.min(a, b)) : 1;
  const cells = sensitivity.values.map((row) =>
    row.map((value) => (value === null ? null : Math.log10(Math.max(value, low)))),
  );
  byId("sensitivity").style.height = rowHeight(names.length);
  const labels = sensitivity.codes.map((code) => choices.find((choice) => choice.code === code).name);
  const [bottom, top] = [
    Math.log10(low),
    Math.max(...cells.flat().filter((value) => value !== null), Math.log10(low) + 0.01),
  ];
  const marks = range(5).map((place) => bottom + (place * (top - bottom)) / 4);
  const trace = {
    type: "heatmap",
    z: cells,
    zmin: bottom,
    zmax: top,
    colorscale: VIRIDIS.map((shade, place) => [place / (VIRIDIS.length - 1), shade]),
    xgap: 1,
    ygap: 1,
    hoverinfo: "text",
    text: names.map((name, point) =>
      labels.map((label, place) => `${wrapped(name)}<br>${label}: ${sensitivity.texts[point][place]}`),
    ),
    colorbar: colourBar("", {
      tickvals: marks,
      ticktext: marks.map((mark) => Number((10 ** mark).toPrecision(2)).toString()),
    }),
  };
  draw(
    "sensitivity",
    [trace],
    layout({
      xaxis: axis("width (bits)", { tickvals: range(labels.length), ticktext: labels, showgrid: false }),
      yaxis: rowAxis(run().short_names),
    }),
  );
}

function drawAnalysis() {
  const grid = run().analysis;
  byId("analysis").style.height = rowHeight(grid.labels.length);
  const shares = (value) => (value === null ? "not known" : shareText(value));
  const text = grid.labels.map(
    (label, place) =>
      `${wrapped(label)}<br>clipped: ${shares(grid.clipped[place])}<br>range used: ${shares(grid.range_used[place])}`,
  );
  const trace = (values, name, symbol, shade, size) => ({
    type: "scatter",
    mode: "markers",
    x: values,
    y: range(values.length),
    name,
    text,
    hovertemplate: "%{text}<br>%{x:.1f} dB<extra></extra>",
    marker: { symbol, color: shade, size, line: { width: 2 } },
  });
  const output =
    grid.output_sqnr === null
      ? []
      : [
          {
            type: "line",
            x0: grid.output_sqnr,
            x1: grid.output_sqnr,
            yref: "paper",
            y0: 0,
            y1: 1,
            line: { color: colour("float"), dash: "dash" },
            showlegend: true,
            name: `output of the network: ${grid.output_sqnr.toFixed(1)} dB`,
          },
        ];
  draw(
    "analysis",
    [
      trace(grid.sqnr, "this point alone", "circle-open", colour("front"), 13),
      trace(grid.sqnr_accumulated, "all points, errors accumulated", "square", colour("uniform"), 7),
    ],
    layout({ xaxis: axis("SQNR (dB)"), yaxis: rowAxis(grid.labels), shapes: output }),
  );
}
