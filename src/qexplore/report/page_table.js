/* Tables: all points, failures, settings, and runs side by side. */

const KINDS = ["the front", "the front and uniform widths", "all that was measured"];
const PAGE_ROWS = 100;
const SORT = { kind: 0, column: null, down: false, shown: PAGE_ROWS };

function tableColumns() {
  const one = run();
  return [
    { head: "point", value: (row) => row, text: (row) => rowName(row) },
    ...one.scores.map((column) => ({
      head: one.scores.length > 1 ? setName(column) : column.name,
      value: (row) => column.values[row],
      text: (row) => scoreText(column.values[row]),
      number: true,
    })),
    ...(score().intervals.some((pair) => pair)
      ? [
          {
            head: "95 % interval",
            value: (row) => score().intervals[row]?.[0] ?? null,
            text: (row) => score().intervals[row]?.map(scoreText).join(" to ") ?? "",
            number: true,
          },
        ]
      : []),
    ...one.costs.map((column) => ({
      head: column.axis.length > 24 ? column.words : column.axis,
      value: (row) => column.values[row],
      text: (row) => costText(column.values[row]),
      number: true,
    })),
    { head: "widths", value: null, text: (row) => widthsText(row), wide: true },
  ];
}

function tableRows(columns) {
  const kinds = ["front", "uniform", "measured"].slice(0, SORT.kind + 1);
  const rows = range(run().candidates.kinds.length).filter(
    (row) => kinds.includes(run().candidates.kinds[row]) && isKept(row),
  );
  const column = columns[SORT.column];
  if (!column) return rows;
  const sign = SORT.down ? -1 : 1;
  const known = (row) => column.value(row) ?? (SORT.down ? -Infinity : Infinity);
  return rows.sort((a, b) => sign * (known(a) - known(b)) || a - b);
}

function sortedHead(column, place) {
  const isSorted = SORT.column === place;
  const order = {
    "aria-sort": isSorted ? (SORT.down ? "descending" : "ascending") : "none",
    scope: "col",
    class: column.number ? "number" : "",
  };
  if (!column.value) return element("th", { scope: "col" }, column.head);
  const mark = isSorted ? (SORT.down ? " ▼" : " ▲") : "";
  return element(
    "th",
    order,
    button(`${column.head}${mark}`, () => {
      Object.assign(SORT, { column: place, down: isSorted && !SORT.down });
      drawTable();
    }),
  );
}

function tableRow(row, columns) {
  const act = (event) => {
    if (event.type === "keydown" && event.key !== "Enter") return;
    select(row);
  };
  const cells = columns.map((column) =>
    element("td", { class: column.number ? "number" : column.wide ? "wide" : "name" }, column.text(row)),
  );
  return element(
    "tr",
    { class: `pick${row === STATE.row ? " chosen" : ""}`, tabindex: 0, "data-row": row, onclick: act, onkeydown: act },
    ...cells,
  );
}

function drawTable() {
  const columns = tableColumns();
  const rows = tableRows(columns);
  const most = ["front", "uniform", "measured"].filter((kind) => run().candidates.kinds.includes(kind));
  fill(
    "table-controls",
    choose(
      "Show",
      KINDS.slice(0, 1 + ["front", "uniform", "measured"].lastIndexOf(most[most.length - 1] ?? "front")),
      SORT.kind,
      (place) => {
        Object.assign(SORT, { kind: place, shown: PAGE_ROWS });
        drawTable();
      },
    ),
    button("Download CSV", () => download(`${run().file}.csv`, csvOf(rows), "text/csv")),
    button("Download front (JSON)", () => download(`${run().file}.json`, run().front, "application/json")),
    element("span", { class: "quiet" }, plural(rows.length, "row")),
  );
  const head = element("thead", {}, element("tr", {}, ...columns.map(sortedHead)));
  fill(
    "table",
    element("table", {}, head, element("tbody", {}, ...rows.slice(0, SORT.shown).map((row) => tableRow(row, columns)))),
  );
  fill(
    "table-more",
    ...(rows.length > SORT.shown
      ? [
          button(`Show ${Math.min(rows.length - SORT.shown, 500)} more of ${rows.length}`, () => {
            SORT.shown += 500;
            drawTable();
          }),
        ]
      : []),
  );
}

const csvCell = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

/* The columns of Front.to_csv, and one more that says what a row is where it is not of the front. */
function csvOf(rows) {
  const one = run();
  const mixed = rows.some((row) => !isFront(row));
  const scores = one.scores.flatMap((column) => {
    const name = `${column.set_name === "report set" ? "report_" : ""}${column.name}`;
    const ends = column.intervals.some((pair) => pair)
      ? [0, 1].map((side) => [`${name}_${side ? "high" : "low"}`, (row) => column.intervals[row]?.[side]])
      : [];
    return [[name, (row) => column.values[row]], ...ends];
  });
  const width = (point) => (row) => {
    const { code, name } = choiceOf(one.candidates.num_bits[row][point]);
    return code === 0 ? 0 : name;
  };
  const columns = [
    ["index", (row) => (isFront(row) ? row : "")],
    ...scores,
    ...one.costs.map((column) => [column.name, (row) => column.values[row]]),
    ...one.point_names.map((name, point) => [name, width(point)]),
    ...(mixed ? [["kind", (row) => one.candidates.kinds[row]]] : []),
  ];
  return [columns.map(([name]) => csvCell(name)), ...rows.map((row) => columns.map(([, value]) => csvCell(value(row))))]
    .map((cells) => `${cells.join(",")}\n`)
    .join("");
}

function plainTable(heads, rows) {
  const head = element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text))));
  return element(
    "table",
    {},
    head,
    element(
      "tbody",
      {},
      ...rows.map((cells) =>
        element("tr", {}, ...cells.map((text, place) => element("td", { class: place ? "wide" : "name" }, text))),
      ),
    ),
  );
}

function drawFailures() {
  byId("failures-panel").hidden = !run().failures.length;
  fill(
    "failures",
    plainTable(
      ["candidate", "reason"],
      run().failures.map((one) => [one.num_bits, one.reason]),
    ),
  );
}

function drawFacts() {
  const groups = run().facts.filter(([, pairs]) => pairs.length);
  fill(
    "facts",
    ...groups.map(([title, pairs]) =>
      element("div", {}, element("h3", {}, title), element("dl", { class: "facts" }, ...facts(pairs))),
    ),
  );
}

/* Several runs: a row for each thing that one of them says of itself, a column for each run. */
function drawCompare() {
  byId("compare").hidden = DATA.runs.length < 2;
  if (DATA.runs.length < 2) return;
  const told = DATA.runs.map(
    (one) =>
      new Map([
        ["state", one.state || "not known"],
        ...one.summary,
        ...one.facts.filter(([title]) => title === "Front").flatMap(([, pairs]) => pairs),
      ]),
  );
  const names = [...new Set(told.flatMap((one) => [...one.keys()]))];
  const rows = names
    .map((name) => [name, ...told.map((one) => one.get(name) ?? "")])
    .filter(([name]) => name !== "weights");
  fill("compare-table", plainTable(["", ...DATA.runs.map((one) => one.name)], rows));
}
