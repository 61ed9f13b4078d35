// Diameters as stacked bars, a colour a group.

import { short, svg } from "./dom.js";
import { colour } from "./palette.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [352, 130, 28, 30, 8];

/** An SVG of the histograms of a grouping's groups. */
export function makeHistogram(edges, groups, unit) {
  const bins = edges.length - 1;
  const totals = Array.from({ length: bins }, (_, bin) => groups.reduce((sum, group) => sum + group.statistics.histogram[bin], 0));
  const most = Math.max(1, ...totals);
  const [width, height] = [(WIDTH - LEFT - 6) / bins, HEIGHT - BOTTOM - TOP];
  const label = `Histogram of diameters from ${short(edges[0])} to ${short(edges[bins])} ${unit}`;
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "histogram", role: "img", "aria-label": label });
  picture.append(
    svg("line", { x1: LEFT, x2: WIDTH - 6, y1: TOP + height, y2: TOP + height }),
    text(most, LEFT - 5, TOP + 8, "end"), text(0, LEFT - 5, TOP + height, "end"),
    text(short(edges[0]), LEFT, HEIGHT - 16, "start"), text(short(edges[bins]), WIDTH - 6, HEIGHT - 16, "end"),
    text(`equivalent diameter, ${unit}`, (LEFT + WIDTH) / 2, HEIGHT - 4, "middle"),
  );
  for (let bin = 0; bin < bins; bin += 1) {
    let y = TOP + height;
    groups.forEach((group, number) => {
      const count = group.statistics.histogram[bin];
      if (!count) return;
      const tall = (count / most) * height;
      y -= tall;
      const title = svg("title", {}, `${group.name}: ${count} of ${short(edges[bin])} to ${short(edges[bin + 1])} ${unit}`);
      const bar = { x: LEFT + bin * width + 0.5, y, width: Math.max(1, width - 1), height: tall, fill: colour(number) };
      picture.append(svg("rect", bar, title));
    });
  }
  return picture;
}

const text = (value, x, y, anchor) => svg("text", { x, y, "text-anchor": anchor }, String(value));
