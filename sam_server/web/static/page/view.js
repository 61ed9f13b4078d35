// Where the picture lies on the canvas: zoom and pan.

const MIN_SCALE = 0.02;
const MAX_SCALE = 64;
const MARGIN = 16; // CSS pixels around a fitted picture

export class View extends EventTarget {
  scale = 1; // CSS pixels a pixel
  x = 0; // of the picture's corner, in CSS pixels
  y = 0;
  fitted = true;

  constructor(canvas) {
    super();
    this.canvas = canvas;
  }

  /** From CSS pixels of the canvas to pixels of the picture. */
  toPicture(x, y) {
    return { x: (x - this.x) / this.scale, y: (y - this.y) / this.scale };
  }

  /** From pixels of the picture to CSS pixels of the canvas. */
  toCanvas(x, y) {
    return { x: x * this.scale + this.x, y: y * this.scale + this.y };
  }

  /** Show the whole picture. */
  fit(width, height) {
    const { clientWidth, clientHeight } = this.canvas;
    const room = [clientWidth - 2 * MARGIN, clientHeight - 2 * MARGIN];
    this.scale = Math.max(MIN_SCALE, Math.min(room[0] / width, room[1] / height, 8));
    this.x = (clientWidth - width * this.scale) / 2;
    this.y = (clientHeight - height * this.scale) / 2;
    this.fitted = true;
    this.changed();
  }

  /** Zoom by a factor around a place of the canvas. */
  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.min(MAX_SCALE, Math.max(MIN_SCALE, this.scale * factor));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.changed();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.changed();
  }

  /** Move so that a place of the picture is seen, if it is not. */
  reveal(x, y) {
    const place = this.toCanvas(x, y);
    const { clientWidth, clientHeight } = this.canvas;
    if (place.x > 0 && place.y > 0 && place.x < clientWidth && place.y < clientHeight) return;
    this.pan(clientWidth / 2 - place.x, clientHeight / 2 - place.y);
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }
}
