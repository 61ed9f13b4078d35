// Files of the selection, of a group or of all, named after the picture.

import { ask, askJson } from "./api.js";
import { byId, el } from "./dom.js";
import { icon } from "./icons.js";
import { keepMasks, withSet } from "./keep.js";
import { complain } from "./messages.js";
import { maskPath } from "./paint.js";
import { baseName } from "./picture.js";
import { activeObject, maskOf, shownGrouping, state } from "./state.js";

// format of the server, or of the page; title; what it is for; ending of the file's name
const FORMATS = [
  ["mask", "Mask PNG", "white on black", "mask.png"],
  ["cutout", "Cut-out PNG", "the rest is transparent", "cutout.png"],
  ["overlay", "Overlay PNG", "masks on the picture", "overlay.png"],
  ["labels_png", "Label map PNG", "16 bits, a number a mask", "labels.png"],
  ["labels_tiff", "Label map TIFF", "16 bits, a number a mask", "labels.tiff"],
  ["coco", "COCO JSON", "annotations", "coco.json"],
  ["csv", "CSV", "a row of measures a mask", "csv"],
  ["xlsx", "XLSX", "masks, groups, filters", "xlsx"],
];
let scope = "all";
let shown = null;

/** What may be exported now: [value, label, masks, query of the server]. */
function scopes() {
  const found = [];
  const { doc, grouping, selected, selectedGroup } = state;
  const objects = doc.objects.filter(maskOf);
  const active = activeObject();
  if (active && maskOf(active)) found.push(["object", `${active.name}`, [active]]);
  if (objects.length) found.push(["objects", `All objects (${objects.length})`, objects]);
  if (grouping && selected.size) {
    const name = selectedGroup ?? "Selection";
    found.push(["selected", `${name} (${selected.size} of the masks found)`, [...selected]]);
  }
  if (grouping) found.push(["all", `All masks found (${grouping.kept.length})`, grouping.kept]);
  return found;
}

/** Draw the panel if what it offers changed. */
export function showExport() {
  const offered = scopes();
  const key = JSON.stringify(offered.map(([value, label]) => [value, label]));
  if (key === shown) return;
  shown = key;
  const panel = byId("export-panel");
  if (!offered.length) {
    panel.replaceChildren(el("p", { class: "empty" }, "Nothing to export yet. Click a thing in the picture, or find every mask."));
    return;
  }
  if (!offered.some(([value]) => value === scope)) scope = offered[0][0];
  const select = el("select", { id: "scope", onchange: () => { scope = select.value; } }, ...offered.map(([value, label]) => el("option", { value }, label)));
  select.value = scope;
  const buttons = FORMATS.map(([format, title, use, ending]) => el(
    "button", { type: "button", "data-format": format, onclick: () => save(format, ending) },
    icon("save"), el("span", {}, title, el("small", {}, use)),
  ));
  panel.replaceChildren(
    el("div", { class: "line" }, el("label", { for: "scope" }, "Export"), select),
    el("div", { class: "formats" }, ...buttons),
    el("p", { class: "quiet" }, "Masks that overlap: a label map shows the smaller one. Lengths are in the unit of the scale."),
  );
}

async function save(format, ending) {
  const chosen = scopes().find(([value]) => value === scope);
  if (!chosen) return;
  const [kind, , masks] = chosen;
  try {
    const blob = format === "mask" || format === "cutout" ? await paint(format, kind, masks) : await fromServer(format, kind, masks);
    const part = kind === "object" ? `_${masks[0].name}` : kind === "selected" ? `_${state.selectedGroup ?? "selection"}` : "";
    download(blob, `${baseName()}${part.replace(/[^\p{L}\p{N}_-]+/gu, "_")}.${ending}`);
  } catch (error) {
    complain("The file could not be made", error);
  }
}

function download(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Mask and cut-out are made here: paths along pixel edges fill whole pixels. */
async function paint(format, kind, masks) {
  const { width, height, image } = state.picture;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const isMask = format === "mask";
  context.fillStyle = "#fff";
  for (const mask of masks) context.fill(maskPath(isSet(kind) ? state.doc.set.masks[mask] : maskOf(mask)), "evenodd");
  context.globalCompositeOperation = isMask ? "destination-over" : "source-in";
  context.fillStyle = "#000";
  if (isMask) context.fillRect(0, 0, width, height);
  else context.drawImage(image, 0, 0, width, height);
  return canvas.convertToBlob({ type: "image/png" });
}

const isSet = (kind) => kind === "selected" || kind === "all";

async function fromServer(format, kind, masks) {
  const query = new URLSearchParams({ format });
  if (!isSet(kind)) {
    const id = await keepMasks(masks.map(maskOf));
    await askJson("group_masks", { mask_set_id: id, methods: [], ...realSize() });
    const file = await (await ask(`mask_sets/${id}?${query}`)).blob();
    const names = masks.map(({ name }) => name);
    return format === "coco" ? nameCoco(file, names) : format === "csv" ? nameCsv(file, names) : file;
  }
  const { set } = state.doc;
  const { method } = shownGrouping() ?? {};
  if (method && ["coco", "overlay"].includes(format)) query.set("method", method);
  if (kind === "selected" && state.selectedGroup !== null) {
    query.set("method", method);
    query.set("group", state.selectedGroup);
  } else if (kind === "selected") query.set("masks", masks.join(","));
  const file = await withSet(set, async () => {
    // The server exports the last grouping of a set: make sure that it is the one on the screen.
    await askJson("group_masks", { ...JSON.parse(state.grouping.asked), mask_set_id: set.id });
    return (await ask(`mask_sets/${set.id}?${query}`)).blob();
  });
  return format === "coco" ? nameCoco(file) : file;
}

/** COCO JSON that names the picture as people do, and objects as they were named. */
async function nameCoco(file, names = null) {
  const coco = JSON.parse(await file.text());
  coco.images[0].file_name = state.picture.name;
  if (names) {
    const categories = [...new Set(names)];
    coco.categories = categories.map((name, number) => ({ id: number + 1, name, supercategory: "" }));
    coco.annotations.forEach((annotation, number) => { annotation.category_id = categories.indexOf(names[number]) + 1; });
  }
  return new Blob([JSON.stringify(coco)], { type: "application/json" });
}

/** CSV with the names of objects after their numbers. */
async function nameCsv(file, names) {
  const [head, ...rows] = (await file.text()).split("\r\n");
  const quoted = names.map((name) => `"${name.replaceAll('"', '""')}"`);
  const named = rows.map((row, number) => (row ? row.replace(",", () => `,${quoted[number]},`) : row));
  return new Blob([[head.replace(",", ",name,"), ...named].join("\r\n")], { type: "text/csv" });
}

function realSize() {
  const { pixelSize, unit } = state.doc.scale;
  return unit === "px" ? {} : { pixel_size: pixelSize, unit };
}
