"use strict";
// Numbers: the organs of one case, its facts and settings, and the table and plots of all cases.

// An element with attributes, properties of its style, and children; text is always text.
function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "circle", "line", "text", "g", "title"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") Object.assign(made.style, value);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const fixed = (value, digits) => (isNumber(value) ? value.toFixed(digits) : "–");
const percent = (value) => (isNumber(value) ? `${(100 * value).toFixed(value && value < 1e-4 ? 4 : 2)} %` : "–");

// The stages that were measured, of those that a registration can have.
const stagesOf = (report) => ["before", "aligned", "registered"].filter((s) => report.labels[s]);
const STAGES = { before: "before", aligned: "aligned", registered: "after" };

function organTable(table, entry, colorOf, onChoose) {
  const { report, labels } = entry, stages = stagesOf(report);
  table.replaceChildren();
  table.hidden = !stages.length;
  if (!stages.length) return;
  const unit = report.labels.registered.hd95_unit;
  table.append(element("thead", {},
    element("tr", {},
      element("th", { scope: "col", rowspan: 2 }, "Organ"),
      element("th", { scope: "colgroup", colspan: stages.length + 1 }, "Dice"),
      element("th", { scope: "colgroup", colspan: stages.length }, `HD95 (${unit})`)),
    element("tr", {},
      ...stages.map((stage) => element("th", { scope: "col" }, STAGES[stage])),
      element("th", { "aria-label": "Dice before and after as a picture" }),
      ...stages.map((stage) => element("th", { scope: "col" }, STAGES[stage])))));
  const row = (title, of) => {
    const dice = stages.map((stage) => of(report.labels[stage], "dice"));
    return element("tr", {}, title,
      ...dice.map((value) => element("td", {}, fixed(value, 3))),
      element("td", {}, diceBar(dice[0], dice[dice.length - 1])),
      ...stages.map((stage) => element("td", {}, fixed(of(report.labels[stage], "hd95"), 1))));
  };
  const body = element("tbody");
  for (const label of Object.keys(report.labels.registered.dice)) {
    const name = labels[label] || `label ${label}`;
    const swatch = element("i", { class: "swatch", style: { background: colorOf(Number(label)) } });
    const title = element("th", { scope: "row" },
      element("button", { type: "button", onclick: () => onChoose(Number(label)), title: `Show ${name}` }, swatch, name));
    body.append(row(title, (stage, key) => stage[key][label]));
  }
  const mean = element("th", { scope: "row" }, "mean");
  table.append(body, element("tfoot", {}, row(mean, (stage, key) => stage[`mean_${key}`])));
}

// Dice from 0 to 1 as a line from before (hollow) to after (full).
function diceBar(before, after) {
  const x = (value) => 5 + 110 * value, svg = element("svg", { class: "bar", viewBox: "0 0 120 12", "aria-hidden": "true" });
  svg.append(element("line", { x1: 5, x2: 115, y1: 6, y2: 6, class: "axis" }));
  if (!isNumber(before) || !isNumber(after)) return svg;
  svg.append(
    element("line", { x1: x(before), x2: x(after), y1: 6, y2: 6, class: after < before ? "worse" : "better" }),
    element("circle", { cx: x(before), cy: 6, r: 3, class: "before" }),
    element("circle", { cx: x(after), cy: 6, r: 3.5, class: "after" }));
  return svg;
}

// Of the images, from the first stage to the last.
function nmi(stages) {
  return stages && Object.values(stages).map((value) => fixed(value, 3)).join(" → ");
}

function facts(place, entry) {
  const { report } = entry, grid = report.working_grid || {}, settings = report.settings || {};
  const list = (title, rows) => element("div", {},
    element("h3", {}, title),
    element("dl", {}, ...rows.filter(([, value]) => value !== undefined && value !== null && value !== "")
      .flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))])));
  const by = (values, digits) => values && values.map((v) => Number(v.toFixed(digits))).join(" × ");
  const chosen = Object.entries(settings.layer || {}).map(([key, value]) => `${key} = ${JSON.stringify(value)}`);
  place.replaceChildren(
    list("Deformation", [
      ["SDlogJ", fixed(report.sd_log_jacobian, 3)],
      ["SD of log J, folds counted fully", fixed(report.sd_log_jacobian_strict, 3)],
      ["Folds (J ≤ 0)", percent(report.folds)],
      ["Displacement", `mean ${fixed(report.mean_displacement_mm, 1)} mm, largest ${fixed(report.max_displacement_mm, 1)} mm`],
      ["Inverse error", `mean ${fixed(report.mean_inverse_error_mm, 2)} mm, largest ${fixed(report.max_inverse_error_mm, 2)} mm`],
      ["NMI of the images", nmi(report.normalised_mutual_information)],
      ["TRE", report.tre_mm?.registered && `${fixed(report.tre_mm.registered.mean, 1)} mm`],
      ["Time of features and layer", `${fixed(report.seconds, 1)} s`],
    ]),
    list("Method", [
      ["Fixed image", report.inputs.fixed],
      ["Moving image", report.inputs.moving],
      ["Features", settings.features],
      ["Preset", settings.features && (settings.preset || "the layer’s defaults")],
      ["Layer", chosen.join(", ")],
      ["Initial alignment", settings.initial],
      ["Window", settings.window && settings.window.join(" to ")],
      ["Working grid", grid.shape && `${by(grid.shape, 0)} voxels of ${by(grid.spacing_mm, 2)} mm`],
      ["Device", settings.device],
      ["Version", settings.version],
    ]));
}

// Columns of the table of all cases: heading, value, how it is written, whether large is good.
const COLUMNS = [
  ["Case", (e) => e.name, (v) => v],
  ["Dice before", (e) => e.report.labels.before?.mean_dice, (v) => fixed(v, 3)],
  ["Dice aligned", (e) => e.report.labels.aligned?.mean_dice, (v) => fixed(v, 3)],
  ["Dice after", (e) => e.report.labels.registered?.mean_dice, (v) => fixed(v, 3)],
  ["HD95 after", (e) => e.report.labels.registered?.mean_hd95, (v) => fixed(v, 1)],
  ["TRE after", (e) => e.report.tre_mm?.registered?.mean, (v) => fixed(v, 2)],
  ["SDlogJ", (e) => e.report.sd_log_jacobian, (v) => fixed(v, 3)],
  ["Folds", (e) => e.report.folds, percent],
  ["Inverse error (mm)", (e) => e.report.mean_inverse_error_mm, (v) => fixed(v, 2)],
  ["Seconds", (e) => e.report.seconds, (v) => fixed(v, 1)],
];

class CaseTable {
  constructor(table, entries, onChoose) {
    Object.assign(this, { table, entries, onChoose, column: 0, descending: false, current: 0 });
    this.columns = COLUMNS.filter(([, value]) => entries.some((entry) => value(entry) !== undefined));
    this.headings = this.columns.map(([title], n) => element("th", { scope: "col" },
      element("button", { type: "button", onclick: () => this.sortBy(n) }, title)));
    this.body = element("tbody");
    table.append(element("thead", {}, element("tr", {}, ...this.headings)), this.body);
    this.draw();
  }

  // A second click on a heading turns the order; cases without the number come last.
  sortBy(column) {
    this.descending = column === this.column && !this.descending;
    this.column = column;
    this.draw();
  }

  draw() {
    const value = (n) => this.columns[this.column][1](this.entries[n]), sign = this.descending ? -1 : 1;
    const missing = (v) => v === undefined || v === null;
    const order = this.entries.map((_, n) => n).sort((m, n) => {
      const [a, b] = [value(m), value(n)];
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return sign * (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
    });
    this.headings.forEach((heading, n) => heading.setAttribute("aria-sort",
      n !== this.column ? "none" : this.descending ? "descending" : "ascending"));
    this.body.replaceChildren(...order.map((n) => element("tr",
      { class: n === this.current && "current", onclick: () => this.onChoose(n) },
      ...this.columns.map(([, of, written], k) => {
        const text = written(of(this.entries[n]));
        return k ? element("td", {}, text)
          : element("th", { scope: "row" }, element("button", { type: "button", "aria-pressed": String(n === this.current) }, text));
      }))));
  }

  choose(n) {
    this.current = n;
    this.draw();
  }
}

// Distributions: a dot for each case, spread where many are alike; a line at the mean.
class Plots {
  constructor(place, entries, onChoose) {
    Object.assign(this, { entries, onChoose, dots: [] });
    const dice = (stage) => entries.map((e) => e.report.labels[stage]?.mean_dice);
    const rows = ["before", "aligned", "registered"].map((s) => [`Dice ${STAGES[s]}`, dice(s), [0, 1]]);
    const roughness = entries.map((e) => e.report.sd_log_jacobian);
    rows.push(["SDlogJ", roughness, [0, Math.max(0.1, ...roughness) * 1.1]]);
    for (const [title, values, range] of rows) {
      if (values.some(isNumber)) place.append(this.strip(title, values, range));
    }
  }

  strip(title, values, [low, high]) {
    const x = (value) => 12 + (296 * (value - low)) / (high - low), known = values.filter(isNumber);
    const mean = known.reduce((a, b) => a + b, 0) / known.length;
    const svg = element("svg", { viewBox: "0 0 320 66", role: "img", "aria-label": `${title}: mean ${fixed(mean, 3)} of ${known.length} cases` });
    svg.append(element("line", { x1: 12, x2: 308, y1: 44, y2: 44, class: "axis" }));
    for (let tick = 0; tick <= 4; tick++) {
      const value = low + (tick * (high - low)) / 4;
      svg.append(element("line", { x1: x(value), x2: x(value), y1: 44, y2: 48, class: "axis" }),
        element("text", { x: x(value), y: 60, class: "tick" }, fixed(value, 2)));
    }
    svg.append(element("line", { x1: x(mean), x2: x(mean), y1: 10, y2: 44, class: "mean" }));
    const taken = [];
    values.forEach((value, n) => {
      if (!isNumber(value)) return;
      const level = taken.filter((other) => Math.abs(other - x(value)) < 7).length % 4;
      taken.push(x(value));
      const dot = element("circle", { cx: x(value), cy: 38 - 7 * level, r: 4, class: "dot", onclick: () => this.onChoose(n) },
        element("title", {}, `${this.entries[n].name}: ${fixed(value, 3)}`));
      this.dots.push([n, dot]);
      svg.append(dot);
    });
    return element("figure", {}, element("figcaption", {}, title, element("b", {}, `${fixed(mean, 3)} on average`)), svg);
  }

  choose(n) {
    for (const [other, dot] of this.dots) dot.classList.toggle("current", other === n);
  }
}
