/* The point that is selected: its figures, its neighbours, its layers, and how it is applied. */

function neighbours(row) {
  const order = steps();
  const place = order.indexOf(row);
  if (place >= 0) return [order[place - 1] ?? null, order[place + 1] ?? null];
  const price = cost().values[row];
  const below = order.filter((one) => one !== row && cost().values[one] <= price);
  return [below[below.length - 1] ?? null, order.find((one) => one !== row && cost().values[one] > price) ?? null];
}

const changes = (row, other) =>
  range(run().point_names.length).filter(
    (point) => run().candidates.num_bits[row][point] !== run().candidates.num_bits[other][point],
  );
const widthAt = (row, point) => choiceOf(run().candidates.num_bits[row][point]).name;

function figures(row) {
  const one = run();
  const scores = one.scores
    .filter((column) => column.values[row] !== null)
    .map((column) => {
      const ends = column.intervals[row];
      return [
        setName(column),
        `${scoreText(column.values[row])}${ends ? ` (95 %: ${scoreText(ends[0])} to ${scoreText(ends[1])})` : ""}`,
      ];
    });
  const float = score().float_score;
  const value = score().values[row];
  const against =
    float === null || value === null ? [] : [["against the float network", signed(value - float, differenceText)]];
  return [...scores, ...against, ...one.costs.map((column) => [column.words, withUnit(column, column.values[row])])];
}

function comparison(row, other, missing) {
  if (other === null)
    return element(
      "p",
      { class: "quiet" },
      `No ${missing} point of the front${STATE.limits.size ? " within what you keep" : ""}.`,
    );
  const dearer = cost().values[other] - cost().values[row];
  const words = dearer < 0 ? "cheaper" : dearer > 0 ? "costlier" : "equally cheap";
  const differing = changes(row, other);
  const named = differing
    .slice(0, 6)
    .map((point) => `${short(run().short_names[point])} ${widthAt(other, point)} → ${widthAt(row, point)}`);
  const more = differing.length > 6 ? ` and ${differing.length - 6} more` : "";
  const values = [score().values[row], score().values[other]];
  const gained = values.includes(null) ? "" : `${score().name} ${signed(values[0] - values[1], differenceText)}, `;
  const price = `${cost().words} ${signed(cost().values[row] - cost().values[other], costText)}`;
  return element(
    "p",
    {},
    element("b", {}, `Against the ${words} ${rowName(other)}: `),
    `${gained}${price}; ${plural(differing.length, "layer")} differ${differing.length === 1 ? "s" : ""}${named.length ? `: ${named.join(", ")}${more}` : ""}.`,
  );
}

/* Python takes the texts of JSON as they are. */
function widthsInPython(row) {
  const entries = run().point_names.map((name, point) => {
    const { code, name: width } = choiceOf(run().candidates.num_bits[row][point]);
    return `${JSON.stringify(name)}: ${String(code) === width ? width : JSON.stringify(width)}`;
  });
  return `model.num_bits = {${entries.join(", ")}}`;
}

/* The front's own file with these rows alone, as Front.load reads it. */
function frontOf(rows) {
  const whole = JSON.parse(run().front);
  for (const name of run().by_row) {
    if (whole[name]) whole[name] = rows.map((row) => whole[name][row]);
  }
  if (whole.report_between) whole.report_between = whole.report_between.map((row) => rows.map((column) => row[column]));
  return JSON.stringify(whole);
}

function applied(row) {
  if (!isFront(row)) return [element("h3", {}, "Apply it"), copied(widthsInPython(row))];
  const file = `${run().file}.json`;
  const filled = (text) => text.replaceAll("{index}", row).replaceAll("{key}", run().apply.keys[row]).replaceAll("{file}", file);
  const point = `${run().file}-point-${row}.json`;
  const needsFile = run().apply.command.includes("{file}");
  return [
    element("h3", {}, "Apply it in Python"),
    copied(filled(run().apply.python)),
    element("h3", {}, "or on the command line"),
    copied(filled(run().apply.command)),
    ...(needsFile
      ? [
          element("p", { class: "quiet" }, `Both read ${file}: `),
          button(`Download ${file}`, () => download(file, run().front, "application/json")),
        ]
      : []),
    element("h3", {}, "or by its widths"),
    copied(widthsInPython(row)),
    button("Download this point (JSON)", () => download(point, frontOf([row]), "application/json")),
    element("p", { class: "quiet" }, `qx.Front.load("${point}")[0].apply_to(model) reads it.`),
  ];
}

function stepTo(place) {
  const order = steps();
  if (order.length) select(order[Math.max(0, Math.min(order.length - 1, place))]);
}

function stepButtons(row) {
  const order = steps();
  const best = order.reduce(
    (a, b) =>
      a === null ||
      (score().values[b] !== null &&
        (score().values[a] === null || isBetter(score(), score().values[b], score().values[a])))
        ? b
        : a,
    null,
  );
  const [before, after] = row === null ? [null, null] : neighbours(row);
  const to = (text, target) =>
    button(text, () => select(target), { disabled: target === null || target === undefined || target === row });
  return [
    to("‹ cheaper", before),
    to("costlier ›", after),
    to("cheapest", order[0]),
    to("knee", run().knee),
    to(`best ${score().name}`, best),
  ];
}

function drawPoint() {
  const row = STATE.row;
  fill("steps", ...(run().num_front ? stepButtons(row) : []));
  if (row === null) {
    fill("point-title", run().num_front ? "No point selected" : "No point to show");
    ["point-figures", "neighbours", "apply"].forEach((id) => fill(id));
    return;
  }
  const tags = row === run().knee ? [element("span", { class: "tag" }, "knee")] : [];
  if (isFront(row)) tags.unshift(element("span", { class: "tag" }, `of ${run().num_front} on the front`));
  if (!isKept(row)) tags.push(element("span", { class: "tag" }, "outside what you keep"));
  const name = rowName(row);
  fill("point-title", `${name[0].toUpperCase()}${name.slice(1)}`, ...tags);
  fill("point-figures", ...facts(figures(row)));
  const [before, after] = neighbours(row);
  fill("neighbours", comparison(row, before, "cheaper"), comparison(row, after, "costlier"));
  fill("apply", ...applied(row));
}

/* A row of the table of layers: what is known of a quantization point at the width that it has. */
function layerRow(row, point, known) {
  const one = run();
  const code = one.candidates.num_bits[row][point];
  const grid = one.sensitivity;
  return {
    point,
    name: one.point_names[point],
    short: one.short_names[point],
    width: choiceOf(code),
    others: known.others.map((other) =>
      other === null || one.candidates.num_bits[other][point] === code ? null : widthAt(other, point),
    ),
    sensitivity: grid ? (grid.values[point][grid.codes.indexOf(code)] ?? null) : null,
    share: known.total ? cost().parts[point][code] / known.total : null,
  };
}

function layerRows(row) {
  const parts = cost().parts;
  const codes = run().candidates.num_bits[row];
  const total = parts ? codes.reduce((sum, code, point) => sum + parts[point][code], 0) : 0;
  const known = { others: neighbours(row), total };
  const rows = run().point_names.map((_, point) => layerRow(row, point, known));
  const keys = {
    order: (one) => one.point,
    "most sensitive": (one) => -(one.sensitivity ?? -1),
    "most costly": (one) => -(one.share ?? -1),
    narrowest: (one) => one.width.bits,
  };
  const key = keys[STATE.layerOrder || "order"];
  return rows.sort((a, b) => key(a) - key(b) || a.point - b.point);
}

function barCell(kind, share, text) {
  const bar = element("i");
  bar.style.width = `${Math.max(0, Math.min(1, share)) * (isPhone() ? 40 : 110)}px`;
  return element("td", {}, element("div", { class: `bar ${kind}` }, bar, element("span", {}, text)));
}

function layerCells(one, known) {
  const width = barCell("", one.width.bits / known.widest, one.width.name);
  width.querySelector("i").style.background = one.width.colour;
  const others = one.others.map((name, place) =>
    known.others[place] === null ? null : element("td", { class: name ? "changed" : "" }, name ?? "same"),
  );
  const sense = known.sensitivity
    ? barCell(
        "sense",
        (one.sensitivity ?? 0) / known.worst,
        one.sensitivity === null ? "not known" : smallText(one.sensitivity),
      )
    : null;
  const share = known.parts
    ? barCell("cost", (one.share ?? 0) / known.dearest, one.share === null ? "" : shareText(one.share))
    : null;
  return element(
    "tr",
    {},
    element("td", { class: "name", title: one.name }, isPhone() ? short(one.short, 22) : one.name),
    width,
    ...others.filter((cell) => cell),
    ...[sense, share].filter((cell) => cell),
  );
}

function drawLayers() {
  const row = STATE.row;
  byId("layers-panel").hidden = row === null;
  if (row === null) return;
  const one = run();
  const rows = layerRows(row);
  const others = neighbours(row);
  const most = (values) => values.reduce((a, b) => Math.max(a, b ?? 0), 0) || 1;
  const known = {
    others,
    sensitivity: one.sensitivity,
    parts: cost().parts,
    widest: most(one.choices.map((choice) => choice.bits)),
    worst: most(rows.map((each) => each.sensitivity)),
    dearest: most(rows.map((each) => each.share)),
  };
  const heads = [
    "layer",
    "width",
    ...others.map((other) => (other === null ? null : `in ${rowName(other)}`)),
    known.sensitivity ? "sensitivity at it" : null,
    known.parts ? `share of ${cost().words}` : null,
  ].filter((head) => head);
  const name = rowName(row);
  fill("layers-title", `Widths by layer: ${name}`);
  const missing = [
    known.sensitivity ? null : "Sensitivity is not known: give report(sensitivity=...), or a study that measured it.",
    known.parts ? null : `Shares of ${cost().words} are not known by layer.`,
  ].filter((text) => text);
  fill(
    "layers-help",
    [
      known.sensitivity ? `Sensitivity: ${one.sensitivity.what} of this layer alone, all others in float.` : null,
      ...missing,
    ]
      .filter((text) => text)
      .join(" "),
  );
  const orders = [
    "order",
    known.sensitivity ? "most sensitive" : null,
    known.parts ? "most costly" : null,
    "narrowest",
  ].filter((text) => text);
  fill(
    "layers-controls",
    choose("Sort by", orders, Math.max(0, orders.indexOf(STATE.layerOrder || "order")), (place) => {
      STATE.layerOrder = orders[place];
      drawLayers();
    }),
  );
  const head = element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text))));
  fill("layers", element("table", {}, head, element("tbody", {}, ...rows.map((each) => layerCells(each, known)))));
}
