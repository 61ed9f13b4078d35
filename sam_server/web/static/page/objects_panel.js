// The list of objects that were clicked.

import { byId, chip, el, short } from "./dom.js";
import { icon } from "./icons.js";
import { colour } from "./palette.js";
import { activate, choose, newObject, remove, rename } from "./segment.js";
import { maskOf, state } from "./state.js";

const STEPS = [
  ["Open a picture", "or take a sample."],
  ["Click a thing", "and its mask appears. A right click takes away, a drag draws a box."],
  ["Find everything", "in the picture; group, count and measure it."],
  ["Export", "masks, tables and annotations."],
];
const EMPTY_TEXT = "Click a thing in the picture. Click again to add to its mask, right-click to take away, or drag a box around it.";

/** Draw the list anew; what had the focus keeps it. */
export function showObjects() {
  const panel = byId("objects-panel");
  const focused = panel.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const { objects, active } = state.doc;
  if (!state.picture) return panel.replaceChildren(el("h2", {}, "How it works"), el("ol", { class: "steps" }, ...STEPS.map(step)));
  const add = el("button", { type: "button", "data-key": "new", onclick: newObject, disabled: active === null, title: "The next click begins another object (N)" }, icon("plus"), "New object");
  panel.replaceChildren(
    el("div", { class: "row head" }, el("h2", { class: "grow" }, `Objects (${objects.length})`), add),
    objects.length ? el("ul", { class: "objects" }, ...objects.map(item)) : el("p", { class: "empty" }, EMPTY_TEXT),
  );
  if (focused) panel.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

const step = ([title, text]) => el("li", {}, el("strong", {}, title), ` ${text}`);

function item(object) {
  const isActive = object.id === state.doc.active;
  const name = el("input", {
    type: "text", value: object.name, maxLength: 80, "aria-label": `Name of ${object.name}`, "data-key": `name-${object.id}`,
    onchange: (event) => { if (!rename(object.id, event.target.value)) event.target.value = object.name; },
    onfocus: () => activate(object.id),
  });
  const drop = el("button", {
    type: "button", class: "plain", "data-key": `drop-${object.id}`, "aria-label": `Delete ${object.name}`, title: "Delete",
    onclick: () => remove(object.id),
  }, icon("close"));
  const line = el("div", { class: "row" }, chip(colour(object.colour)), el("div", { class: "grow" }, name), drop);
  const entry = el("li", { "aria-current": String(isActive), onclick: (event) => { if (event.target === entry) activate(object.id); } }, line, facts(object));
  if (object.ask.masks?.length > 1) entry.append(candidates(object));
  return entry;
}

function facts(object) {
  const mask = maskOf(object);
  if (!mask) return el("p", { class: "facts" }, "…");
  const { pixelSize, unit } = state.doc.scale;
  const diameter = Math.sqrt((4 * mask.area) / Math.PI) * pixelSize;
  return el(
    "p", { class: "facts number" },
    `⌀ ${short(diameter)} ${unit} · ${short(mask.area * pixelSize ** 2)} ${unit}² · predicted IoU ${mask.predicted_iou.toFixed(2)}`,
  );
}

function candidates(object) {
  const buttons = object.ask.masks.map((mask, number) => el(
    "button", {
      type: "button", "aria-pressed": String(number === object.chosen), "data-key": `candidate-${object.id}-${number}`,
      title: `Predicted IoU ${mask.predicted_iou.toFixed(2)} (C for the next)`, onclick: () => choose(object.id, number),
    },
    `${"ABC"[number] ?? number + 1} · ${mask.predicted_iou.toFixed(2)}`,
  ));
  return el("div", { class: "candidates", role: "group", "aria-label": `Candidates of ${object.name}` }, ...buttons);
}
