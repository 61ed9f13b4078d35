// Masks and their measures: sorts, follows the picture, and leads back to it.

import { groupOf, selectMask } from "./everything.js";
import { chip, el, short } from "./dom.js";
import { colour } from "./palette.js";
import { groupNumbers, state } from "./state.js";

const MOST_ROWS = 1000; // shown at once; sorting and exports know all masks
const COLUMNS = [
  ["mask", "Mask"], ["group", "Group"], ["equivalent_diameter_area", "⌀"], ["area", "Area"],
  ["circularity", "Circ."], ["mean_intensity", "Light"],
];

let order = { column: "equivalent_diameter_area", descending: true };

/** The table of the kept masks. `reveal` shows a mask in the picture. */
export function makeTable(grouping, reveal) {
  const numbers = groupNumbers();
  const rows = grouping.kept.map((mask, row) => ({ mask, row, number: numbers.get(mask) ?? 0 }));
  const sign = order.descending ? -1 : 1;
  const key = (entry) => (order.column === "mask" ? entry.mask : order.column === "group" ? entry.number : grouping.measures[order.column][entry.row] ?? -1);
  rows.sort((one, other) => sign * (key(one) - key(other)) || one.mask - other.mask);
  const body = el("tbody", {}, ...rows.slice(0, MOST_ROWS).map((entry) => makeRow(entry, grouping, reveal)));
  const head = el("thead", {}, el("tr", {}, ...COLUMNS.map(([name, label]) => header(name, label))));
  const caption = rows.length > MOST_ROWS ? [el("caption", { class: "quiet" }, `The first ${MOST_ROWS} of ${rows.length}`)] : [];
  return el("div", { class: "table-wrap", tabIndex: 0, role: "region", "aria-label": "Masks and measures" }, el("table", { id: "masks" }, ...caption, head, body));
}

function header(name, label) {
  const sorted = order.column === name;
  const sign = sorted ? (order.descending ? " ↓" : " ↑") : "";
  const sort = () => {
    order = { column: name, descending: sorted ? !order.descending : name !== "mask" && name !== "group" };
    state.tell("sort");
    document.querySelector(`#masks [data-column="${name}"]`)?.focus();
  };
  const button = el("button", { type: "button", "data-column": name, onclick: sort }, label + sign);
  return el("th", { scope: "col", "aria-sort": sorted ? (order.descending ? "descending" : "ascending") : "none" }, button);
}

function makeRow({ mask, row, number }, grouping, reveal) {
  const { measures } = grouping;
  const choose = (event) => {
    selectMask(mask, event.ctrlKey || event.metaKey || event.shiftKey);
    reveal(mask);
  };
  const button = el("button", { type: "button", "data-mask": mask, "aria-label": `Mask ${mask}, ${groupOf(mask) ?? ""}` }, chip(colour(number)), String(mask));
  const cells = [
    el("td", {}, button), el("td", {}, groupOf(mask) ?? ""),
    ...COLUMNS.slice(2).map(([name]) => el("td", {}, short(measures[name][row]))),
  ];
  const line = el("tr", {
    "data-row": mask, onclick: choose,
    onmouseenter: () => state.set({ hovered: mask }), onmouseleave: () => state.set({ hovered: null }),
  }, ...cells);
  button.addEventListener("focus", () => state.set({ hovered: mask }));
  button.addEventListener("blur", () => state.set({ hovered: null }));
  return line;
}

/** Mark selected and hovered rows; scroll to the one that is hovered in the picture. */
export function markRows(table, { scroll }) {
  for (const row of table.querySelectorAll("tr[data-row]")) {
    const mask = Number(row.dataset.row);
    row.setAttribute("data-selected", String(state.selected.has(mask)));
    const isHovered = mask === state.hovered;
    row.classList.toggle("hovered", isHovered);
    if (isHovered && scroll) row.scrollIntoView({ block: "nearest" });
  }
}
