// Every mask of the picture: search, groups, histogram, tree, table.

import { byId, chip, el, short } from "./dom.js";
import { findMasks, loadChoices, selectGroup, selectMask, startFrom } from "./everything.js";
import { FILTER_WORDS, makeControls } from "./controls.js";
import { makeHistogram } from "./histogram.js";
import { icon } from "./icons.js";
import { complain } from "./messages.js";
import { colour } from "./palette.js";
import { shownGrouping, state } from "./state.js";
import { makeTable, markRows } from "./table.js";

// Points along a side of the grid; without one the server takes its own number, and so with the numbers below.
const SEARCHES = [["", "default"], ["16", "16 × 16"], ["32", "32 × 32"], ["48", "48 × 48"], ["64", "64 × 64"]];
// field of POST /generate_masks, label, what stands in the empty field, attributes
const SHARE = { min: 0, max: 1, step: 0.01 };
const OPTIONS = [
  ["pred_iou_thresh", "Least predicted IoU", "default", SHARE],
  ["stability_score_thresh", "Least stability score", "default", SHARE],
  ["tile_size", "Large pictures: tiles of pixels", "no tiles", { min: 128, max: 8192, step: 1 }],
  ["tile_overlap", "Overlap of tiles in pixels", "a quarter", { min: 0, max: 4096, step: 1 }],
];
const MOST_BRANCHES = 300; // of the tree
const parts = {};
let shown = {}; // what the parts were drawn from, so that only what changed is drawn again

/** Build the panel once. `reveal` shows a mask in the picture, `measureScale` begins to draw a known length. */
export function buildGroups({ reveal, measureScale }) {
  const slot = (name, properties = {}) => (parts[name] = el("div", { class: "stack", ...properties }));
  parts.reveal = reveal;
  byId("groups-panel").append(
    searchForm(), slot("job"), slot("choice"), slot("controls"), slot("scale"), slot("summary"), slot("groups"),
    slot("histogram"), slot("tree"), slot("table"),
  );
  parts.scale.append(...scaleForm(measureScale));
  state.addEventListener("sort", () => { shown.table = null; showGroups(); });
  loadChoices().then(showGroups, (error) => complain("The page could not be loaded fully", error));
}

function searchForm() {
  const points = el("select", { id: "points" }, ...SEARCHES.map(([value, label]) => el("option", { value }, label)));
  const numbers = OPTIONS.map(([id, , placeholder, attributes]) => el("input", { type: "number", id, placeholder, ...attributes }));
  const fields = OPTIONS.map(([id, label], number) => el("div", { class: "field inline" }, el("label", { for: id }, label), numbers[number]));
  const crops = el("input", { type: "checkbox", id: "crops" });
  const details = el("details", {}, el("summary", {}, "Options of the search"), ...fields,
    el("div", { class: "check" }, crops, el("label", { for: "crops" }, "Search four crops too (small things; slower)")));
  parts.find = el("button", { type: "submit", class: "primary" }, "Find every mask");
  const send = (event) => {
    event.preventDefault();
    const given = Object.fromEntries(numbers.map((input) => [input.id, input.valueAsNumber]));
    Object.assign(given, { points_per_side: points.value ? Number(points.value) : NaN, crop_n_layers: crops.checked ? 1 : NaN });
    findMasks(Object.fromEntries(Object.entries(given).filter(([, value]) => !Number.isNaN(value))));
  };
  const says = "Points of the grid that is searched; more find smaller things";
  const line = el("div", { class: "line" }, el("label", { for: "points", title: says }, "Points"), points, parts.find);
  const form = el("form", { class: "stack", onsubmit: send }, line, details);
  // A field that is refused has to be seen.
  form.addEventListener("invalid", () => { details.open = true; }, true);
  return form;
}

function scaleForm(measureScale) {
  const size = (parts.pixelSize = el("input", { type: "number", id: "pixel-size", min: 0, step: "any" }));
  const unit = (parts.unit = el("input", { type: "text", id: "unit", class: "unit", maxLength: 16, "aria-label": "Unit of length" }));
  const change = () => {
    const pixelSize = size.valueAsNumber;
    const clean = unit.value.trim() || "px";
    if (pixelSize > 0) state.step({ scale: clean === "px" ? { pixelSize: 1, unit: "px" } : { pixelSize, unit: clean } });
    else showScale();
  };
  size.addEventListener("change", () => { if (unit.value.trim() === "px") unit.value = "µm"; change(); });
  unit.addEventListener("change", change);
  const draw = el("button", { type: "button", title: "Draw a line of known length (L)", "aria-label": "Draw a length", onclick: measureScale }, icon("scale"), "Draw it");
  return [el("div", { class: "line" }, el("label", { for: "pixel-size" }, "A pixel is"), size, unit, draw)];
}

function showScale() {
  const { pixelSize, unit } = state.doc.scale;
  parts.pixelSize.value = Number(pixelSize.toPrecision(6));
  parts.unit.value = unit;
}

/** Draw what changed since the last time. */
export function showGroups({ scroll = false } = {}) {
  const { doc, grouping, job } = state;
  parts.find.disabled = !state.picture?.sessionId || job !== null;
  once("job", job, showJob);
  once("choice", `${state.picture?.name} ${doc.set?.id} ${doc.choice?.source} ${doc.method} ${grouping?.asked}`, showChoice);
  parts.scale.hidden = !state.picture;
  once("scale", doc.scale, showScale);
  const key = `${grouping?.asked} ${doc.method}`;
  once("summary", key, showSummary);
  once("groups", `${key} ${state.selectedGroup}`, showGroupList);
  once("histogram", key, showHistogram);
  once("tree", key, showTree);
  if (shown.table !== key) once("table", key, showTable);
  markRows(parts.table, { scroll });
  // Controls are left alone while one of them is used, or what is moved would be taken away.
  const used = parts.controls.contains(document.activeElement);
  const controls = `${doc.set?.id} ${doc.choice?.source} ${doc.method} ${doc.scale.pixelSize} ${used ? shown.filters : JSON.stringify(doc.choice)}`;
  shown.filters = used ? shown.filters : JSON.stringify(doc.choice);
  once("controls", controls, () => parts.controls.replaceChildren(...(doc.set && doc.choice ? makeControls() : [])));
}

function once(name, key, draw) {
  if (shown[name] === key) return;
  shown[name] = key;
  draw();
}

function showJob() {
  const { job } = state;
  if (!job) return parts.job.replaceChildren();
  const { points = 0, points_done: done = 0, masks = 0, crops = 1, crops_done: cropsDone = 0 } = job.progress;
  if (!parts.job.firstChild) {
    parts.bar = el("progress", { max: 1, "aria-label": "Search for masks" });
    parts.jobText = el("span", { class: "number", id: "job-text" });
    const cancel = el("button", { type: "button", onclick: () => state.job?.cancel() }, "Cancel");
    parts.job.append(el("div", { class: "job" }, parts.bar, parts.jobText, cancel));
  }
  if (points) parts.bar.value = done / points;
  const crop = crops > 1 ? `, crop ${Math.min(crops, cropsDone + 1)} of ${crops}` : "";
  parts.jobText.textContent = points ? `${done} of ${points} points${crop}, ${masks} masks so far` : "Waiting for its turn …";
}

async function showChoice() {
  const { set, choice } = state.doc;
  if (!set || !choice) {
    const text = state.picture ? "Finds every mask of the picture, then groups and measures them." : "Open a picture first.";
    parts.source = null;
    return parts.choice.replaceChildren(el("p", { class: "empty" }, text));
  }
  const offered = await loadChoices();
  // The lists stay while only their values change, so that they can be typed into.
  if (!parts.source) {
    parts.source = sourceSelect(offered);
    parts.method = el("select", { id: "method", onchange: () => state.step({ method: parts.method.value }) });
    parts.methodLine = el("div", { class: "line" }, el("label", { for: "method" }, "Shown by"), parts.method);
    parts.says = el("p", { class: "quiet small" });
    const line = el("div", { class: "line" }, el("label", { for: "choice" }, "Group by"), parts.source);
    parts.choice.replaceChildren(line, parts.methodLine, parts.says);
  }
  const [kind, name] = choice.source.split(":");
  parts.source.value = choice.source;
  parts.says.textContent = offered[`${kind}s`][name].summary;
  const methods = choice.methods.map(({ method }) => method);
  parts.methodLine.hidden = methods.length < 2;
  if ([...parts.method.options].map(({ value }) => value).join() !== methods.join()) {
    parts.method.replaceChildren(...methods.map((method) => el("option", { value: method }, method)));
  }
  parts.method.value = methods.includes(state.doc.method) ? state.doc.method : methods[0];
}

function sourceSelect(offered) {
  const option = (kind) => ([name, { summary }]) => el("option", { value: `${kind}:${name}`, title: summary }, name);
  const select = el(
    "select", { id: "choice", onchange: () => startFrom(select.value) },
    el("optgroup", { label: "Presets" }, ...Object.entries(offered.presets).map(option("preset"))),
    el("optgroup", { label: "One method" }, ...Object.entries(offered.methods).map(option("method"))),
  );
  return select;
}

function showSummary() {
  const { grouping } = state;
  if (!grouping) return parts.summary.replaceChildren();
  const { count, kept, removed, total, unit } = grouping;
  const gone = removed.filter((filter) => filter.count).map(({ filter, count: left }) => `${left} ${FILTER_WORDS[filter] ?? filter}`);
  const { mean, coefficient_of_variation: variation } = total.measures.equivalent_diameter_area;
  const figures = [
    [String(kept.length), `of ${count} masks`],
    [mean === null ? "–" : `${short(mean)} ${unit}`, "mean diameter"],
    [variation === null ? "–" : `${short(variation * 100, 2)} %`, "variation (CV)"],
    [`${short(total.covered_share * 100)} %`, "covered"],
  ];
  parts.summary.replaceChildren(
    el("div", { id: "summary", class: "figures number", role: "status" }, ...figures.map(([value, says]) => el("p", {}, el("strong", {}, value), ` ${says}`))),
    ...(gone.length ? [el("p", { class: "quiet small" }, `Left out: ${gone.join(", ")}`)] : []),
  );
}

function showGroupList() {
  const grouping = shownGrouping();
  if (!grouping) return parts.groups.replaceChildren();
  const focused = parts.groups.contains(document.activeElement) ? document.activeElement.dataset.group : null;
  const { unit } = state.grouping;
  const items = grouping.groups.map((group, number) => {
    const diameter = group.statistics.measures.equivalent_diameter_area;
    const isOn = state.selectedGroup === group.name;
    const size = diameter.mean === null ? "" : `⌀ ${short(diameter.mean)} ± ${short(diameter.std ?? 0, 2)} ${unit}`;
    return el("li", {}, el(
      "button", { type: "button", "aria-pressed": String(isOn), "data-group": group.name, onclick: () => selectGroup(isOn ? null : group.name) },
      chip(colour(number)), group.name, el("span", { class: "count number" }, String(group.masks.length)), el("span", { class: "mean number" }, size),
    ));
  });
  const most = 40;
  const more = items.length > most ? [el("p", { class: "quiet" }, `and ${items.length - most} more, see the table`)] : [];
  parts.groups.replaceChildren(el("h2", {}, `Groups (${items.length})`), el("ul", { class: "groups" }, ...items.slice(0, most)), ...more);
  if (focused) [...parts.groups.querySelectorAll("button")].find((button) => button.dataset.group === focused)?.focus();
}

function showHistogram() {
  const { grouping } = state;
  if (!grouping?.kept.length) return parts.histogram.replaceChildren();
  parts.histogram.replaceChildren(el("h2", {}, "Diameters"), makeHistogram(grouping.histogram_edges, shownGrouping().groups, grouping.unit));
}

function showTree() {
  const nodes = shownGrouping()?.details.nodes;
  if (!nodes?.some(({ children }) => children.length)) return parts.tree.replaceChildren();
  const byMask = new Map(nodes.map((node) => [node.mask, node]));
  const branch = ({ mask, children }) => {
    const button = el("button", {
      type: "button", onclick: () => { selectMask(mask); parts.reveal(mask); },
      onmouseenter: () => state.set({ hovered: mask }), onmouseleave: () => state.set({ hovered: null }),
    }, `mask ${mask}`, children.length ? el("span", { class: "quiet" }, ` ${children.length} ${children.length > 1 ? "parts" : "part"}`) : "");
    return el("li", {}, button, ...(children.length ? [el("ul", {}, ...children.map((child) => branch(byMask.get(child))))] : []));
  };
  const roots = nodes.filter(({ parent, children }) => parent === null && children.length);
  const more = roots.length > MOST_BRANCHES ? [el("p", { class: "quiet" }, `and ${roots.length - MOST_BRANCHES} more, see the table`)] : [];
  parts.tree.replaceChildren(el("h2", {}, "Wholes and parts"), el("ul", { class: "tree" }, ...roots.slice(0, MOST_BRANCHES).map(branch)), ...more);
}

function showTable() {
  const { grouping } = state;
  if (!grouping?.kept.length) return parts.table.replaceChildren();
  parts.table.replaceChildren(el("h2", {}, "Masks"), makeTable(grouping, parts.reveal));
}

