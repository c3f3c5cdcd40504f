/* Uniform widths beside the fronts, and where their names have room. */

const LETTER = { width: 6.8, height: 15 }; // pixels, of a name
const STROKE = 2; // half a line's width
const MARK = 6; // half a marker's width
const MOST_AWAY = 8; // lines of text from a point to its name
const HARDLY_COVERED = 0.1; // of a name's area: by the bar of an interval
const MOST_COVERED = 0.25;

const uniformRows = (one) =>
  range(one.candidates.kinds.length).filter(
    (row) => one.candidates.kinds[row] === "uniform" && score(one).values[row] !== null,
  );
const near = (a, b) => Math.abs(a - b) <= 1e-9 * Math.max(1, Math.abs(a), Math.abs(b));

/* The uniform candidates of all runs: once where several know the same, at the same score and cost. */
function baselines(runs) {
  const found = [];
  for (const one of runs) {
    const mine = new Map(uniformRows(one).map((row) => [one.candidates.labels[row], { one, row }]));
    if (!mine.size) continue;
    const agrees = (other, label) => {
      const here = mine.get(label);
      return (
        !here ||
        (near(score(one).values[here.row], score(other.one).values[other.row]) &&
          near(cost(one).values[here.row], cost(other.one).values[other.row]))
      );
    };
    const same = found.find(({ known }) => [...known].every(([label, other]) => agrees(other, label)));
    if (!same) found.push({ runs: [one], known: mine });
    else {
      same.runs.push(one);
      mine.forEach((entry, label) => same.known.has(label) || same.known.set(label, entry));
    }
  }
  return found.map(({ runs: all, known }) => ({
    runs: all,
    entries: [...known.values()].sort((a, b) => cost(a.one).values[a.row] - cost(b.one).values[b.row]),
  }));
}

function uniformTrace({ runs, entries }, count, several) {
  const place = DATA.runs.indexOf(runs[0]);
  const shade = count > 1 ? RUN_COLOURS[place % RUN_COLOURS.length] : colour(several ? "quiet" : "uniform");
  const parts = entries.map(({ one, row }) => points([row], one, {}));
  const bars = entries.map(({ one, row }) => intervals([row], one, ""));
  const away = (side) => bars.map((bar) => (bar ? bar[side][0] : 0));
  const more = runs.length > 1 ? ` and ${runs.length - 1} more` : "";
  const whose = count > 1 ? ` of ${plain(short(runs[0].name, isPhone() ? 14 : 24))}${more}` : "";
  return {
    ...parts[0],
    ...Object.fromEntries(["x", "y", "customdata"].map((key) => [key, parts.flatMap((part) => part[key])])),
    marker: { size: 9, symbol: several ? "square-open" : "square", color: shade },
    name: `uniform widths${whose}`,
    error_y: bars.some((bar) => bar)
      ? {
          type: "data",
          symmetric: false,
          array: away("array"),
          arrayminus: away("arrayminus"),
          color: `${shade}88`,
          thickness: 1,
          width: 3,
        }
      : undefined,
  };
}

/* What is drawn already, as boxes [left, top, right, bottom] in pixels. */
function takenBoxes(place, beside, shown, width) {
  const boxes = [];
  const level = (value) => {
    if (value === null || value === undefined) return;
    const y = place(0, value)[1];
    boxes.push([0, y - STROKE, width, y + STROKE]);
  };
  const drawn = shown.map((one) => [one, frontByCost(one).filter((row) => score(one).values[row] !== null)]);
  const marked = [
    ...drawn.flatMap(([one, rows]) => rows.map((row) => [one, row])),
    ...beside.flatMap(({ entries }) => entries.map(({ one, row }) => [one, row])),
  ];
  for (const [one, row] of marked) {
    const [x, y] = place(cost(one).values[row], score(one).values[row]);
    boxes.push([x - MARK, y - MARK, x + MARK, y + MARK]);
    const ends = one.num_front <= MOST_BARS && score(one).intervals[row];
    if (ends) boxes.push([x - 1, place(0, ends[1])[1], x + 1, place(0, ends[0])[1]]);
  }
  for (const [one, rows] of drawn) {
    const corners = onLine(rows, one).map((row) => place(cost(one).values[row], score(one).values[row]));
    corners.slice(1).forEach(([far, high], at) => {
      const [x, y] = corners[at];
      boxes.push([Math.min(x, far), y - STROKE, Math.max(x, far), y + STROKE]);
      boxes.push([far - STROKE, Math.min(y, high), far + STROKE, Math.max(y, high)]);
    });
  }
  shown.flatMap((one) => [score(one).float_score, score(one).min_score]).forEach(level);
  return boxes;
}

const shared = (a, b) =>
  Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));

/* Names near their points, on the worse side of the front where there is room; a name without room is in the hover. */
function uniformNames(chart, beside, shown) {
  const { xaxis, yaxis } = chart._fullLayout;
  const [width, height] = [xaxis._length, yaxis._length];
  const place = (x, y) => [xaxis.d2p(x), yaxis.d2p(y)];
  const taken = takenBoxes(place, beside, shown, width);
  const down = score().higher_is_better ? 1 : -1;
  const annotations = [];
  const all = beside.flatMap(({ entries }) => entries);
  const marks = all.map(({ one, row }) => place(cost(one).values[row], score(one).values[row]));
  for (const [at, { one, row }] of all.entries()) {
    const [x, y] = marks[at];
    if (x < 0 || y < 0 || x > width || y > height) continue;
    const text = one.candidates.labels[row];
    const [wide, tall] = [LETTER.width * text.length + 2, LETTER.height];
    let best = null;
    for (const step of range(MOST_AWAY))
      for (const side of [down, -down])
        for (const dx of [MARK + wide / 2, -MARK - wide / 2, 0]) {
          const dy = side * (MARK + tall / 2 + step * tall);
          const box = [x + dx - wide / 2, y + dy - tall / 2, x + dx + wide / 2, y + dy + tall / 2];
          const outside = wide * tall - shared(box, [0, 0, width, height]);
          // Beside another mark, and without a line to its own, it would name that one.
          const away = ([left, top]) => Math.hypot(x + dx - left, y + dy - top);
          const astray = !step && marks.some((other) => away(other) < away([x, y])) ? MOST_COVERED * wide * tall : 0;
          const covered = astray + outside + taken.reduce((sum, other) => sum + shared(box, other), 0);
          const isBetterPlace = best === null || (covered < best.covered && best.covered > HARDLY_COVERED * wide * tall);
          if (isBetterPlace) best = { covered, box, dx, dy, step };
        }
    if (best.covered > MOST_COVERED * wide * tall) continue;
    taken.push(best.box);
    annotations.push({
      x: cost(one).values[row],
      y: score(one).values[row],
      ax: best.dx,
      ay: best.dy,
      text: plain(text),
      font: { size: 12, color: colour(shown.length > 1 ? "quiet" : "changed") },
      arrowhead: 0,
      arrowwidth: 1,
      standoff: MARK,
      arrowcolor: best.step ? colour("quiet") : "rgba(0,0,0,0)",
    });
  }
  return annotations;
}
