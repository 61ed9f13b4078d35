// Icons as lines on a grid of 24, in the colour of the text.

import { svg } from "./dom.js";

const PATHS = {
  close: "M6 6l12 12M18 6L6 18",
  fit: "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
  minus: "M5 12h14",
  open: "M3 19V6h6l2 3h10v10z",
  pan: "M12 3v18M3 12h18M9 6l3-3 3 3M9 18l3 3 3-3M6 9l-3 3 3 3M18 9l3 3-3 3",
  plus: "M12 5v14M5 12h14",
  redo: "M15 3l5 5-5 5M20 8H10a6 6 0 0 0 0 12h3",
  save: "M12 4v11M7 10.5l5 5 5-5M4 20h16",
  scale: "M2 8h20v8H2zM6 8v4M10 8v3M14 8v4M18 8v3",
  segment: "M12 2v6M12 16v6M2 12h6M16 12h6M12 12h.01",
  select: "M5 3l14 8.5-6.2 1.3L9.5 19z",
  undo: "M9 3L4 8l5 5M4 8h10a6 6 0 0 1 0 12h-3",
};

/** An icon; what it stands for is said by the element that it is put into. */
export function icon(name) {
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));
}

/** Put icons into all elements that name one. */
export function placeIcons() {
  for (const element of document.querySelectorAll("[data-icon]")) element.prepend(icon(element.dataset.icon));
}
