// Draws the picture, masks, prompts and lines. Outlines are vectors, so that they are crisp at any zoom.

import { pathOf } from "./geometry.js";
import { colour } from "./palette.js";
import { activeObject, groupNumbers, shownMaskOf, state } from "./state.js";

const SHARP_FROM = 3; // from this zoom on single pixels are shown as squares
const paths = new WeakMap();

/** The path of a mask, made once. */
export function maskPath(mask) {
  let path = paths.get(mask);
  if (!path) {
    path = pathOf(mask.segmentation);
    paths.set(mask, path);
  }
  return path;
}

export class Painter {
  constructor(canvas, view) {
    this.canvas = canvas;
    this.view = view;
    this.context = canvas.getContext("2d");
    this.asked = false;
    this.drag = null; // box that is being drawn, in pixels of the picture
  }

  /** Draw before the next frame. */
  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  draw() {
    const { canvas, context, view } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!state.picture?.image) return;
    context.setTransform(view.scale * ratio, 0, 0, view.scale * ratio, view.x * ratio, view.y * ratio);
    context.imageSmoothingEnabled = view.scale < SHARP_FROM;
    context.imageSmoothingQuality = "high";
    context.drawImage(state.picture.image, 0, 0, state.picture.width, state.picture.height);
    if (state.tab !== "objects") this.drawSet();
    this.drawObjects();
    this.drawPrompt();
    this.drawLine();
    this.drawCursor();
  }

  /** Width in pixels of the picture of so many CSS pixels. */
  px(width) {
    return width / this.view.scale;
  }

  drawMask(mask, number, { opacity = state.opacity, width = 1.5 } = {}) {
    const { context } = this;
    const path = maskPath(mask);
    context.fillStyle = colour(number, opacity);
    context.fill(path, "evenodd");
    context.lineJoin = "round";
    if (width > 2) {
      context.strokeStyle = "rgb(255 255 255 / .9)";
      context.lineWidth = this.px(width + 2);
      context.stroke(path);
    }
    context.strokeStyle = colour(number);
    context.lineWidth = this.px(width);
    context.stroke(path);
  }

  drawSet() {
    const { doc, grouping, selected, hovered } = state;
    if (!doc.set) return;
    const kept = grouping ? grouping.kept : doc.set.masks.keys();
    const numbers = groupNumbers();
    const dim = selected.size > 0;
    const ordered = [...kept].sort((one, other) => doc.set.masks[other].area - doc.set.masks[one].area);
    for (const mask of ordered) {
      const chosen = selected.has(mask);
      const opacity = dim && !chosen ? state.opacity * 0.3 : state.opacity;
      this.drawMask(doc.set.masks[mask], numbers.get(mask) ?? mask, { opacity, width: chosen ? 2.5 : 1.5 });
    }
    if (hovered !== null && doc.set.masks[hovered]) {
      this.drawMask(doc.set.masks[hovered], numbers.get(hovered) ?? hovered, { opacity: 0.15, width: 3 });
    }
  }

  drawObjects() {
    if (state.tab === "groups") return;
    const { objects, active } = state.doc;
    for (const object of objects) {
      const mask = shownMaskOf(object);
      if (mask) this.drawMask(mask, object.colour, { width: object.id === active ? 2.5 : 1.5 });
    }
  }

  drawPrompt() {
    const { context } = this;
    const object = activeObject();
    const box = this.drag ?? (state.tab === "objects" ? object?.ask.prompt.box : null);
    if (box) {
      context.strokeStyle = "#fff";
      context.lineWidth = this.px(3);
      const sides = [Math.min(box[0], box[2]), Math.min(box[1], box[3]), Math.abs(box[2] - box[0]), Math.abs(box[3] - box[1])];
      context.strokeRect(...sides);
      context.strokeStyle = "#0b5cad";
      context.lineWidth = this.px(1.5);
      context.setLineDash([this.px(6), this.px(4)]);
      context.strokeRect(...sides);
      context.setLineDash([]);
    }
    if (state.tab !== "objects" || !object) return;
    for (const point of object.ask.prompt.points) this.drawPoint(point);
  }

  drawPoint({ x, y, label }) {
    const { context } = this;
    context.beginPath();
    context.arc(x, y, this.px(6), 0, 2 * Math.PI);
    context.fillStyle = label ? "#1a8a3c" : "#c0261c";
    context.fill();
    context.strokeStyle = "#fff";
    context.lineWidth = this.px(2);
    context.stroke();
    context.beginPath();
    const arm = this.px(3);
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    if (label) {
      context.moveTo(x, y - arm);
      context.lineTo(x, y + arm);
    }
    context.stroke();
  }

  drawLine() {
    const { line } = state;
    if (!line || state.tool !== "scale") return;
    const { context } = this;
    for (const [style, width] of [["#fff", 4], ["#0b5cad", 2]]) {
      context.strokeStyle = style;
      context.lineWidth = this.px(width);
      context.beginPath();
      context.moveTo(line.x1, line.y1);
      context.lineTo(line.x2, line.y2);
      context.stroke();
    }
  }

  drawCursor() {
    if (!state.cursor || document.activeElement !== this.canvas) return;
    const { context } = this;
    const { x, y } = state.cursor;
    for (const [style, width] of [["#fff", 4], ["#111", 1.5]]) {
      context.strokeStyle = style;
      context.lineWidth = this.px(width);
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + dx * this.px(4), y + dy * this.px(4));
        context.lineTo(x + dx * this.px(14), y + dy * this.px(14));
      }
      context.stroke();
    }
  }
}
