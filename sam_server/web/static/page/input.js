// Mouse, touch, pen and keys on the picture.

import { groupOf, selectGroup, selectMask } from "./everything.js";
import { contains } from "./geometry.js";
import { addPoint, setBox } from "./segment.js";
import { state } from "./state.js";

const DRAG_FROM = { mouse: 5, pen: 5, touch: 12 }; // CSS pixels until a click is a drag; fingers tremble
const HOLD = 500; // milliseconds until a touch is held, which is a finger's right click
const WHEEL_STEP = 1.0015;
const CURSOR_STEP = 10; // CSS pixels

export class Input {
  constructor(canvas, view, painter, { onLine, onHover }) {
    Object.assign(this, { canvas, view, painter, onLine, onHover });
    this.pointers = new Map();
    this.drag = null;
    this.corner = null; // first corner of a box by keyboard
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.cancel(event));
    // A finger leaves when it is lifted; what it pointed at stays until the next touch.
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") this.onHover(null); });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => painter.ask());
    canvas.addEventListener("blur", () => painter.ask());
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  /** Pixels of the picture, kept within it. */
  onPicture(place) {
    const { x, y } = this.view.toPicture(place.x, place.y);
    const { width, height } = state.picture;
    return { x: Math.min(width, Math.max(0, x)), y: Math.min(height, Math.max(0, y)) };
  }

  isInside(place) {
    const { x, y } = this.view.toPicture(place.x, place.y);
    return x >= 0 && y >= 0 && x < state.picture.width && y < state.picture.height;
  }

  down(event) {
    if (!state.picture) return;
    this.canvas.setPointerCapture(event.pointerId);
    const place = this.place(event);
    this.pointers.set(event.pointerId, place);
    state.cursor = null;
    clearTimeout(this.holding);
    if (this.pointers.size > 1) {
      this.drag = null;
      this.painter.drag = null;
      return;
    }
    if (event.pointerType === "touch") {
      this.onHover(null);
      this.holding = setTimeout(() => this.hold(place), HOLD);
    }
    const panning = event.button === 1 || state.tool === "pan" || this.spaceHeld;
    this.drag = { start: place, last: place, moved: false, button: event.button, tool: panning ? "pan" : state.tool };
  }

  move(event) {
    if (!state.picture) return;
    const place = this.place(event);
    if (this.pointers.size > 1 && this.pointers.has(event.pointerId)) return this.pinch(event.pointerId, place);
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, place);
    const { drag } = this;
    if (!drag) return this.onHover(this.maskAt(place), place);
    drag.moved ||= Math.hypot(place.x - drag.start.x, place.y - drag.start.y) > (DRAG_FROM[event.pointerType] ?? DRAG_FROM.mouse);
    if (drag.moved) this.dragTo(drag, place);
    drag.last = place;
  }

  dragTo(drag, place) {
    const [start, end] = [this.onPicture(drag.start), this.onPicture(place)];
    if (drag.tool === "scale" || (drag.tool === "segment" && drag.button === 0)) this.stretch(start, end);
    else this.view.pan(place.x - drag.last.x, place.y - drag.last.y);
    this.painter.ask();
  }

  pinch(moved, place) {
    const other = [...this.pointers].find(([id]) => id !== moved)[1];
    const old = this.pointers.get(moved);
    this.pointers.set(moved, place);
    const [middle, before] = [place, old].map((each) => ({ x: (each.x + other.x) / 2, y: (each.y + other.y) / 2 }));
    this.view.pan(middle.x - before.x, middle.y - before.y);
    const factor = Math.hypot(place.x - other.x, place.y - other.y) / Math.max(1, Math.hypot(old.x - other.x, old.y - other.y));
    this.view.zoom(factor, middle.x, middle.y);
  }

  cancel(event) {
    this.pointers.delete(event.pointerId);
    this.forget();
  }

  /** Forget a gesture that has begun. */
  forget() {
    clearTimeout(this.holding);
    this.drag = null;
    this.corner = null;
    this.painter.drag = null;
    this.painter.ask();
  }

  /** A finger that rests takes away from the mask. */
  hold(place) {
    if (!this.drag || this.drag.moved || this.drag.tool !== "segment" || !this.isInside(place)) return;
    const { x, y } = this.onPicture(place);
    this.drag = null;
    addPoint(x, y, 0);
  }

  up(event) {
    const { drag } = this;
    const place = this.place(event);
    this.cancel(event);
    if (!drag || !state.picture) return;
    if (!drag.moved) {
      if (this.isInside(place)) this.click(drag, place, event);
      else if (drag.tool === "select") selectGroup(null);
    } else if (drag.tool === "segment" && drag.button === 0) {
      this.boxFrom(this.onPicture(drag.start), this.onPicture(place));
    } else if (drag.tool === "scale") this.onLine(state.line);
  }

  boxFrom(one, other) {
    const box = [Math.min(one.x, other.x), Math.min(one.y, other.y), Math.max(one.x, other.x), Math.max(one.y, other.y)];
    if (box[2] - box[0] > 1 && box[3] - box[1] > 1) setBox(box);
  }

  click(drag, place, event) {
    const { x, y } = this.onPicture(place);
    if (drag.tool === "segment" && drag.button !== 1) addPoint(x, y, drag.button === 2 || event.shiftKey ? 0 : 1);
    else if (drag.tool === "select") this.pick(this.maskAt(place), event.ctrlKey || event.metaKey || event.shiftKey);
    // A finger cannot hover: its tap tells the measures too.
    if (event.pointerType === "touch") this.onHover(this.maskAt(place), place);
  }

  /** A click takes all of the mask's group; with a key held, this mask alone joins or leaves. */
  pick(mask, alone) {
    if (mask === null) selectGroup(null);
    else if (alone) selectMask(mask, true);
    else selectGroup(groupOf(mask));
  }

  /** The smallest mask of the set at a place of the canvas, or null. */
  maskAt(place) {
    const { set } = state.doc;
    if (!set || !state.grouping || state.tab === "objects") return null;
    const { x, y } = this.view.toPicture(place.x, place.y);
    const hits = state.grouping.kept.filter((mask) => contains(set.masks[mask], x, y));
    hits.sort((one, other) => set.masks[one].area - set.masks[other].area);
    return hits[0] ?? null;
  }

  wheel(event) {
    if (!state.picture) return;
    event.preventDefault();
    const place = this.place(event);
    const lines = event.deltaMode === 1 ? 30 : 1;
    if (event.shiftKey) this.view.pan(-event.deltaY * lines - event.deltaX, 0);
    else this.view.zoom(WHEEL_STEP ** (-event.deltaY * lines), place.x, place.y);
  }

  /** Keys while the picture has the focus: arrows move a cursor, Enter and X click at it. */
  key(event) {
    if (!state.picture || event.altKey || event.metaKey) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const arrow = arrows[event.key];
    if (arrow && event.shiftKey) this.view.pan(-arrow[0] * 40, -arrow[1] * 40);
    else if (arrow) this.moveCursor(arrow, event.ctrlKey ? 1 / this.view.scale : CURSOR_STEP / this.view.scale);
    else if (state.cursor && (!event.ctrlKey || event.key === "Enter")) {
      if (!this.act(event.key, event.ctrlKey)) return;
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  moveCursor([dx, dy], step) {
    const { width, height } = state.picture;
    const { x, y } = state.cursor ?? { x: width / 2, y: height / 2 };
    state.cursor = { x: Math.min(width - 0.5, Math.max(0.5, x + dx * step)), y: Math.min(height - 0.5, Math.max(0.5, y + dy * step)) };
    this.view.reveal(state.cursor.x, state.cursor.y);
    const place = this.view.toCanvas(state.cursor.x, state.cursor.y);
    if (this.corner) this.stretch(this.corner, state.cursor);
    this.onHover(this.maskAt(place), place);
    this.painter.ask();
  }

  /** Show the box or the line between two places. */
  stretch(start, end) {
    if (state.tool === "scale") state.line = { x1: start.x, y1: start.y, x2: end.x, y2: end.y };
    else this.painter.drag = [start.x, start.y, end.x, end.y];
  }

  act(key, alone) {
    const { tool, cursor } = state;
    const { x, y } = cursor;
    const isClick = key === "Enter" || key === " ";
    if (tool === "select" && isClick) this.pick(this.maskAt(this.view.toCanvas(x, y)), alone);
    else if (tool === "scale" && isClick) this.endLine(cursor);
    else if (tool === "segment" && isClick) addPoint(x, y, 1);
    else if (tool === "segment" && key === "x") addPoint(x, y, 0);
    else if (tool === "segment" && key === "b") this.endBox(cursor);
    else return false;
    return true;
  }

  endBox(place) {
    if (this.corner) this.boxFrom(this.corner, place);
    this.corner = this.corner ? null : place;
    this.painter.drag = null;
  }

  endLine(place) {
    const start = this.corner;
    this.corner = start ? null : place;
    if (!start || Math.hypot(place.x - start.x, place.y - start.y) < 1) return;
    this.stretch(start, place);
    this.onLine(state.line);
  }
}
