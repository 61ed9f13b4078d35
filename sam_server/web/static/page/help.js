// Every key of the page: what it does, and what help says of it.

import { el } from "./dom.js";
import { icon } from "./icons.js";

// keys as the page names them; action of app.js, or none where the picture itself handles the key; what it does
export const KEYS = [
  { keys: ["o"], action: "open", says: "Open a picture" },
  { keys: ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"], says: "Move the cursor; Ctrl: by a pixel, Shift: the picture", shown: "arrows" },
  { keys: ["Enter"], says: "Foreground at the cursor, or pick; Ctrl: the mask alone" },
  { keys: ["x"], says: "Background at the cursor" },
  { keys: ["b"], says: "Begin and end a box at the cursor" },
  { keys: ["c"], action: "nextCandidate", says: "Next candidate of the mask" },
  { keys: ["n"], action: "newObject", says: "New object" },
  { keys: ["Delete", "Backspace"], action: "remove", says: "Delete the object" },
  { keys: ["Ctrl+z"], action: "undo", says: "Undo" },
  { keys: ["Ctrl+Shift+z", "Ctrl+y"], action: "redo", says: "Redo" },
  { keys: ["g"], action: "find", says: "Find every mask" },
  { keys: ["Escape"], action: "leave", says: "Stop the search, drop the selection" },
  { keys: ["s"], action: "segment", says: "Tool: segment" },
  { keys: ["v"], action: "select", says: "Tool: pick" },
  { keys: ["h"], action: "pan", says: "Tool: move" },
  { keys: ["l"], action: "scale", says: "Tool: scale, from Enter to Enter" },
  { keys: ["+", "="], action: "zoomIn", says: "Zoom in" },
  { keys: ["-"], action: "zoomOut", says: "Zoom out" },
  { keys: ["0"], action: "fit", says: "Fit the picture" },
  { keys: ["1"], action: "actualSize", says: "One pixel a pixel" },
  { keys: ["["], action: "lessOpaque", says: "Masks less opaque" },
  { keys: ["]"], action: "moreOpaque", says: "Masks more opaque" },
  { keys: ["?"], action: "help", says: "This help" },
];

const MOUSE = [
  [["click", "tap"], "Foreground; in a found set, the mask's group"],
  [["right click", "Shift+click", "hold"], "Background"],
  [["drag"], "A box"],
  [["wheel", "pinch"], "Zoom"],
  [["Space+drag", "two fingers"], "Move the picture"],
];

/** Show mouse and keys. */
export function help(dialog) {
  const name = (key) => (key.length === 1 ? key.toUpperCase() : key.replace(/[yz]$/, (letter) => letter.toUpperCase()));
  const row = (names, says) => el("div", {}, el("dt", {}, ...names.map((each) => el("kbd", {}, each))), el("dd", {}, says));
  const rows = [...MOUSE, ...KEYS.map(({ keys, shown, says }) => [shown ? [shown] : keys.map(name), says])];
  const close = el("button", { class: "plain", "aria-label": "Close" }, icon("close"));
  dialog.replaceChildren(
    el("form", { method: "dialog", class: "row" }, el("h2", { id: "dialog-title", class: "grow" }, "Mouse and keys"), close),
    el("dl", { class: "keys" }, ...rows.map(([names, says]) => row(names, says))),
  );
  dialog.showModal();
}
