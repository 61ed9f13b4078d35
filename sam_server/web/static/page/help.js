// Every key of the page: what it does, and what help says of it.

import { el } from "./dom.js";

// keys as the page names them; action of app.js, or none where the picture itself handles the key; what it does
export const KEYS = [
  { keys: ["o"], action: "open", says: "Open a picture" },
  { keys: ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"], says: "Move the cursor on the picture; with Ctrl by a pixel, with Shift the picture moves", shown: "arrows" },
  { keys: ["Enter"], says: "Click at the cursor: foreground, or pick", shown: "Enter" },
  { keys: ["x"], says: "Click at the cursor: background" },
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
  { keys: ["l"], action: "scale", says: "Tool: scale, a line from Enter to Enter" },
  { keys: ["+", "="], action: "zoomIn", says: "Zoom in" },
  { keys: ["-"], action: "zoomOut", says: "Zoom out" },
  { keys: ["0"], action: "fit", says: "Fit the picture" },
  { keys: ["1"], action: "actualSize", says: "One pixel a pixel" },
  { keys: ["["], action: "lessOpaque", says: "Masks less opaque" },
  { keys: ["]"], action: "moreOpaque", says: "Masks more opaque" },
  { keys: ["?"], action: "help", says: "This help" },
];

const MOUSE = [
  ["click", "foreground; in a found set, the mask's group"], ["right click, Shift+click", "background"],
  ["drag", "a box"], ["wheel, pinch", "zoom"], ["Space + drag, middle button, two fingers", "move the picture"],
];

/** Show mouse and keys. */
export function help(dialog) {
  const name = ({ keys, shown }) => shown ?? keys.map((key) => (key.length === 1 ? key.toUpperCase() : key.replace("z", "Z").replace("y", "Y"))).join(", ");
  const row = ([what, says]) => [el("dt", {}, el("kbd", {}, what)), el("dd", {}, says)];
  dialog.replaceChildren(
    el("h2", { id: "dialog-title" }, "Mouse and keys"),
    el("dl", {}, ...MOUSE.flatMap(row), ...KEYS.flatMap((key) => row([name(key), key.says]))),
    el("form", { method: "dialog" }, el("button", { class: "primary" }, "Close")),
  );
  dialog.showModal();
}
