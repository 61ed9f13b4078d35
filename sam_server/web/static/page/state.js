// What the page knows. `doc` is what undo and redo change; everything else is how one looks at it.

import { History } from "./history.js";

export const EMPTY = Object.freeze({
  objects: [], // {id, name, colour, ask, chosen}: `ask` is what its mask was asked for with, see segment.js
  active: null, // id of an object
  nextNumber: 1,
  set: null, // mask set: {id, masks, parameters}
  choice: null, // {source, methods, filters}: how the set is grouped
  method: null, // whose groups are shown
  scale: { pixelSize: 1, unit: "px" },
});

class State extends EventTarget {
  history = new History(EMPTY);
  picture = null; // {name, source, width, height, image, sessionId, scaling}
  tool = "segment";
  tab = "objects";
  opacity = 0.45;
  grouping = null; // last answer of POST /group_masks, with `of`: the document's set and choice it answers
  selected = new Set(); // numbers of masks in the set
  selectedGroup = null; // name, where the selection is a whole group
  hovered = null; // number of a mask in the set
  job = null;
  line = null; // of the scale tool: {x1, y1, x2, y2}
  cursor = null; // of the keyboard, in pixels of the picture

  get doc() {
    return this.history.present;
  }

  /** Take a step that can be undone. */
  step(changes) {
    this.history.push({ ...this.doc, ...changes });
    this.tell("doc");
  }

  /** Complete the present step. */
  amend(changes) {
    this.history.amend({ ...this.doc, ...changes });
    this.tell("doc");
  }

  /** Change how one looks at it. */
  set(changes) {
    Object.assign(this, changes);
    this.tell("look");
  }

  tell(kind) {
    this.dispatchEvent(new Event(kind));
  }
}

export const state = new State();

/** Groups by the method that is shown, or null. */
export function shownGrouping() {
  const groupings = state.grouping?.groupings ?? [];
  return groupings.find((grouping) => grouping.method === state.doc.method) ?? groupings[0] ?? null;
}

/** Number of each kept mask's group by the method that is shown. */
export function groupNumbers() {
  const numbers = new Map();
  shownGrouping()?.groups.forEach((group, number) => group.masks.forEach((mask) => numbers.set(mask, number)));
  return numbers;
}

/** The chosen mask of an object, or null while there is none. */
export const maskOf = ({ ask, chosen }) => ask.masks?.[chosen] ?? null;

/** The mask to show of an object: the chosen one, or the newest before it while that is on its way. */
export function shownMaskOf(object) {
  for (let at = object; at; at = at.ask.before) if (maskOf(at)) return maskOf(at);
  return null;
}

/** The active object, or null. */
export const activeObject = () => state.doc.objects.find((object) => object.id === state.doc.active) ?? null;
