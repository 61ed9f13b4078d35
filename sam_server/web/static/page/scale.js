// The real size of a pixel, from a line whose length is known.

import { byId, el, short } from "./dom.js";
import { state } from "./state.js";

/** Ask how long a line is, and take the scale from it. */
export function askLength({ x1, y1, x2, y2 }, done) {
  const pixels = Math.hypot(x2 - x1, y2 - y1);
  const dialog = byId("dialog");
  const { unit: old } = state.doc.scale;
  const length = el("input", { type: "number", id: "length", min: 0, step: "any", required: true });
  const unit = el("input", { type: "text", id: "length-unit", maxLength: 16, required: true, size: 6, value: old === "px" ? "µm" : old });
  const use = () => {
    if (!(length.valueAsNumber > 0) || !unit.value.trim()) return;
    state.step({ scale: { pixelSize: length.valueAsNumber / pixels, unit: unit.value.trim() } });
    done();
  };
  dialog.replaceChildren(el(
    "form", { method: "dialog", class: "stack", onsubmit: use },
    el("h2", { id: "dialog-title" }, "How long is this line?"),
    el("p", { class: "quiet" }, `It is ${short(pixels)} pixels long.`),
    el("div", { class: "row" }, el("label", { for: "length" }, "Length"), length, el("label", { for: "length-unit" }, "in"), unit),
    el("div", { class: "row actions" }, el("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
      el("button", { class: "primary" }, "Use it")),
  ));
  dialog.showModal();
  length.focus();
}
