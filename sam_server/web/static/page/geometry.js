// Masks as GeoJSON MultiPolygons along pixel edges: paths to draw, hits, run lengths.

/** A Path2D of every ring; fill it by the even-odd rule. */
export function pathOf(geometry) {
  const path = new Path2D();
  for (const polygon of geometry.coordinates) {
    for (const ring of polygon) {
      path.moveTo(ring[0][0], ring[0][1]);
      for (let i = 1; i < ring.length - 1; i += 1) path.lineTo(ring[i][0], ring[i][1]);
      path.closePath();
    }
  }
  return path;
}

/** Whether a point lies on a mask. */
export function contains(mask, x, y) {
  const [left, top, width, height] = mask.bbox;
  if (x < left || y < top || x > left + width || y > top + height) return false;
  let inside = false;
  for (const polygon of mask.segmentation.coordinates) {
    for (const ring of polygon) {
      for (let i = 1; i < ring.length; i += 1) {
        const [x1, y1] = ring[i - 1];
        const [x2, y2] = ring[i];
        if (y1 > y !== y2 > y && x < x1 + ((y - y1) / (y2 - y1)) * (x2 - x1)) inside = !inside;
      }
    }
  }
  return inside;
}

/**
 * COCO run lengths, down the columns, background first. Every horizontal edge is where the runs of its columns
 * change between mask and ground; two changes at one place cancel.
 */
export function runLengths(geometry, width, height) {
  const changes = [];
  for (const polygon of geometry.coordinates) {
    for (const ring of polygon) {
      for (let i = 1; i < ring.length; i += 1) {
        const [x1, y1] = ring[i - 1];
        const [x2, y2] = ring[i];
        if (y1 !== y2) continue;
        for (let x = Math.min(x1, x2); x < Math.max(x1, x2); x += 1) changes.push(x * height + y1);
      }
    }
  }
  changes.sort((one, other) => one - other);
  const counts = [];
  let last = 0;
  for (let i = 0; i < changes.length; i += 1) {
    if (changes[i] === changes[i + 1]) {
      i += 1;
      continue;
    }
    counts.push(changes[i] - last);
    last = changes[i];
  }
  counts.push(width * height - last);
  return { size: [height, width], counts };
}
