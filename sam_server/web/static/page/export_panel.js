// Files of the selection, of a group or of all, named after the picture.

import { ask, askJson } from "./api.js";
import { byId, el } from "./dom.js";
import { runLengths } from "./geometry.js";
import { complain } from "./messages.js";
import { maskPath } from "./paint.js";
import { baseName, isForgotten, renew, sessionId } from "./picture.js";
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
    panel.replaceChildren(el("p", { class: "empty" }, "Nothing to export yet: click a thing in the picture, or find every mask."));
    return;
  }
  if (!offered.some(([value]) => value === scope)) scope = offered[0][0];
  const select = el("select", { id: "scope", onchange: () => { scope = select.value; } }, ...offered.map(([value, label]) => el("option", { value }, label)));
  select.value = scope;
  const buttons = FORMATS.map(([format, title, use, ending]) => el(
    "button", { type: "button", "data-format": format, onclick: () => save(format, ending) }, title, el("small", {}, use),
  ));
  panel.replaceChildren(
    el("div", { class: "row" }, el("label", { for: "scope", class: "quiet" }, "Export"), select),
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
  const id = isSet(kind) ? state.grouping.mask_set_id : await keep(masks);
  if (isSet(kind) && ["coco", "overlay"].includes(format) && shownGrouping()) query.set("method", shownGrouping().method);
  if (kind === "selected" && state.selectedGroup !== null) {
    query.set("method", shownGrouping().method);
    query.set("group", state.selectedGroup);
  } else if (kind === "selected") query.set("masks", masks.join(","));
  if (isSet(kind)) await askAgain();
  return (await ask(`mask_sets/${id}?${query}`)).blob();
}

/** The server exports the last grouping of a set: make sure that it is the one on the screen. */
const askAgain = () => askJson("group_masks", JSON.parse(state.grouping.asked));

/** Have the masks of objects measured and kept by the server. */
async function keep(objects) {
  const { width, height } = state.picture;
  const masks = objects.map(maskOf).map((mask) => ({
    segmentation: runLengths(mask.segmentation, width, height),
    predicted_iou: mask.predicted_iou, stability_score: mask.stability_score,
  }));
  const send = async () => askJson("mask_sets", { session_id: await sessionId(), masks });
  const set = await send().catch(async (error) => {
    if (!isForgotten(error)) throw error;
    await renew();
    return send();
  });
  const { pixelSize, unit } = state.doc.scale;
  const size = unit === "px" ? {} : { pixel_size: pixelSize, unit };
  await askJson("group_masks", { mask_set_id: set.mask_set_id, methods: [], ...size });
  return set.mask_set_id;
}
