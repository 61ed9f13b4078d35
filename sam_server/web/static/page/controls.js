// Sliders and switches of filters and of each method: one row each.

import { adjust } from "./everything.js";
import { el, short } from "./dom.js";
import { state } from "./state.js";

// name, label, least, most, step; a filter at its loose end is left out.
const FILTERS = [
  ["min_diameter", "Least diameter", 0, "diameter", null],
  ["max_diameter", "Greatest diameter", 0, "diameter", null],
  ["min_pixels", "Least pixels", 0, 500, 1],
  ["min_filled_circularity", "Least circularity, holes filled", 0, 1, 0.01],
  ["min_solidity", "Least solidity", 0, 1, 0.01],
  ["max_eccentricity", "Greatest eccentricity", 0, 1, 0.01],
  ["max_parts", "Most pieces", 1, 10, 1],
  ["min_mean_intensity", "Least brightness", 0, 255, 1],
  ["max_mean_intensity", "Greatest brightness", 0, 255, 1],
  ["min_edge_contrast", "Least contrast at the edge", 0, 50, 0.5],
  ["min_predicted_iou", "Least predicted IoU", 0, 1, 0.01],
  ["min_stability_score", "Least stability", 0, 1, 0.01],
  ["max_picture_share", "Greatest share of the picture", 0, 1, 0.01],
  ["max_duplicate_iou", "Duplicates overlap by more than", 0, 1, 0.01],
  ["max_nested_ratio", "Nested masks cover more of the outer than", 0, 1, 0.01],
];

/** What the masks are that a filter leaves out. */
export const FILTER_WORDS = {
  min_area: "too small", max_area: "too large", min_diameter: "too small", max_diameter: "too large", min_pixels: "specks",
  max_picture_share: "too large for the picture", drop_touching_edge: "at the edge", min_circularity: "not round",
  min_filled_circularity: "not round", min_solidity: "ragged", max_eccentricity: "too long", max_parts: "in pieces",
  max_parts_distance: "in far pieces", min_mean_intensity: "too dark", max_mean_intensity: "too bright",
  min_edge_contrast: "too faint",
  min_predicted_iou: "unsure", min_stability_score: "unstable", max_duplicate_iou: "duplicates", max_nested_ratio: "nested",
};

const METHODS = {
  hierarchy: [["min_containment", "Part lies on the whole by", 0.51, 1, 0.01]],
  overlap: [["threshold", "Least overlap", 0.01, 1, 0.01]],
  size: [["classes", "Size classes (0: found by itself)", 0, 6, 1], ["min_silhouette", "Least silhouette", 0, 1, 0.01]],
  shape: [
    ["min_circularity", "Round from circularity", 0, 1, 0.01],
    ["max_eccentricity", "Elongated from eccentricity", 0, 1, 0.01],
    ["min_solidity", "Irregular below solidity", 0, 1, 0.01],
  ],
  appearance: [["min_members", "Least members", 2, 20, 1]],
  proximity: [["max_gap", "Widest gap (0: half the median diameter)", 0, "diameter", null]],
  droplets: [
    ["min_satellite_overlap", "Satellite lies on its droplet by", 0.51, 1, 0.01],
    ["min_aggregate_overlap", "Aggregate overlaps by", 0.01, 1, 0.01],
  ],
};
// Parameters where the slider's 0 stands for "chosen by the server".
const AUTOMATIC = new Set(["classes", "max_gap"]);
const STEPS = 200;

/** Largest equivalent diameter of the set in the unit of the scale, rounded up. */
function largestDiameter() {
  const { set, scale } = state.doc;
  const area = set ? Math.max(1, ...set.masks.map((mask) => mask.area)) : 1;
  return Math.sqrt((4 * area) / Math.PI) * scale.pixelSize;
}

let filtersOpen = false;

/** Controls of the method that is shown, and of the document's filters. */
export function makeControls() {
  const { choice, method: shown } = state.doc;
  const filters = el("details", { class: "card", open: filtersOpen, ontoggle: () => { filtersOpen = filters.open; } },
    el("summary", {}, "Filters"), edgeSwitch(choice.filters));
  for (const row of FILTERS) filters.append(slider(row, choice.filters[row[0]], (value) => ({ filters: { [row[0]]: value } })));
  const { method, ...values } = choice.methods.find((each) => each.method === shown) ?? choice.methods[0];
  const set = el("fieldset", {}, el("legend", {}, `Method: ${method}`));
  for (const row of METHODS[method] ?? []) {
    set.append(slider(row, values[row[0]], (value) => ({ method, parameters: { [row[0]]: value } }), method));
  }
  return [set, filters];
}

function edgeSwitch(filters) {
  const input = el("input", {
    type: "checkbox", id: "drop_touching_edge", checked: filters.drop_touching_edge,
    onchange: () => adjust({ filters: { drop_touching_edge: input.checked } }),
  });
  return el("div", { class: "check" }, input, el("label", { for: "drop_touching_edge" }, "Leave out masks at the picture's edge"));
}

function slider([name, label, low, top, fixedStep], value, change, method = "filters") {
  const high = top === "diameter" ? largestDiameter() : top;
  const step = fixedStep ?? high / STEPS;
  const isFilter = method === "filters";
  const loose = name.startsWith("max_") ? high : low;
  const id = `${method}-${name}`;
  const output = el("output", { for: id });
  const read = (number) => {
    if (isFilter && Math.abs(number - loose) < step / 2) return null;
    if (AUTOMATIC.has(name) && number === 0) return null;
    return number;
  };
  const tell = () => {
    const now = read(input.valueAsNumber);
    const text = now === null ? (isFilter ? "off" : "auto") : short(now);
    output.textContent = text;
    input.setAttribute("aria-valuetext", text);
  };
  const input = el("input", { type: "range", id, min: low, max: high, step });
  input.value = value ?? (isFilter ? loose : 0);
  // While the slider moves, groups follow within one step of the history.
  let moving = false;
  input.addEventListener("input", () => {
    tell();
    adjust(change(read(input.valueAsNumber)), moving);
    moving = true;
  });
  input.addEventListener("change", () => { moving = false; });
  tell();
  return el("div", { class: "field" }, el("label", { for: id }, label), output, input);
}
