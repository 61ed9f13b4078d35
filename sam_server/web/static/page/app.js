// The page, put together.

import { byId, short } from "./dom.js";
import { groupOf, regroup, selectGroup } from "./everything.js";
import { showExport } from "./export_panel.js";
import { buildGroups, showGroups } from "./groups_panel.js";
import { placeIcons } from "./icons.js";
import { Input } from "./input.js";
import { KEYS, help } from "./help.js";
import { Problem } from "./api.js";
import { complain, listen, tellTruth } from "./messages.js";
import { showObjects } from "./objects_panel.js";
import { Painter } from "./paint.js";
import { open } from "./picture.js";
import { loadSamples } from "./samples.js";
import { askLength } from "./scale.js";
import { complete, newObject, nextCandidate, remove } from "./segment.js";
import { state } from "./state.js";
import { View } from "./view.js";

const HINTS = {
  segment: "Click a thing. Right-click or Shift+click takes away. Drag a box. Wheel zooms, hold Space to move.",
  select: "Click a mask for its group, Ctrl+click for the mask alone. Hover to see its measures.",
  pan: "Drag to move the picture. Wheel or pinch zooms.",
  scale: "Draw a line along something whose length you know.",
};
const TOUCH_HINTS = {
  segment: "Tap a thing, hold to take away, drag a box. Two fingers move and zoom.",
  select: "Tap a mask for its group and measures.",
  pan: "Drag to move the picture, pinch to zoom.",
  scale: HINTS.scale,
};
const ZOOM_STEP = 1.25;
const OPACITY_STEP = 10;

const canvas = byId("canvas");
const view = new View(canvas);
const painter = new Painter(canvas, view);
const input = new Input(canvas, view, painter, { onLine: (line) => askLength(line, leaveScale), onHover: hover });
const isTouched = window.matchMedia("(pointer: coarse)");
let toolBefore = "segment"; // the scale was drawn

function fit() {
  if (state.picture?.image) view.fit(state.picture.width, state.picture.height);
}

function hover(mask, place) {
  const tip = byId("tooltip");
  if (mask !== state.hovered) state.set({ hovered: mask });
  tip.hidden = mask === null;
  if (mask === null) return;
  showGroups({ scroll: true });
  tip.textContent = measuresOf(mask);
  tip.style.left = `${Math.min(place.x + 14, Math.max(0, canvas.clientWidth - 200))}px`;
  tip.style.top = `${Math.min(place.y + 14, Math.max(0, canvas.clientHeight - 110))}px`;
}

function measuresOf(mask) {
  const { grouping } = state;
  const row = grouping.row.get(mask);
  const value = (name) => short(grouping.measures[name][row]);
  const { unit } = grouping;
  return `Mask ${mask} · ${groupOf(mask) ?? ""}\n⌀ ${value("equivalent_diameter_area")} ${unit} · area ${value("area")} ${unit}²\n`
    + `circularity ${value("circularity")} · solidity ${value("solidity")}\nmean brightness ${value("mean_intensity")}`;
}

function reveal(mask) {
  const [x, y, width, height] = state.doc.set.masks[mask].bbox;
  view.reveal(x + width / 2, y + height / 2);
  painter.ask();
}

function setTool(tool) {
  if (tool === "segment" && state.tab === "groups") state.tab = "objects";
  if (tool === "select" && state.tab === "objects") state.tab = "groups";
  if (tool === "scale" && state.tool !== "scale") toolBefore = state.tool;
  input.forget();
  state.set({ tool, line: null });
}

const leaveScale = () => setTool(toolBefore);

function setTab(tab) {
  const tool = tab === "groups" ? "select" : tab === "objects" ? "segment" : state.tool;
  state.set({ tab, tool });
}

function showLook() {
  for (const button of document.querySelectorAll("[data-tool][role=radio]")) {
    const isOn = button.dataset.tool === state.tool;
    button.setAttribute("aria-checked", String(isOn));
    button.tabIndex = isOn ? 0 : -1;
    button.disabled = !state.picture;
  }
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const isOn = tab.id === `tab-${state.tab}`;
    tab.setAttribute("aria-selected", String(isOn));
    tab.tabIndex = isOn ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !isOn;
  }
  canvas.dataset.tool = state.tool;
  const hints = isTouched.matches ? TOUCH_HINTS : HINTS;
  byId("hint").textContent = state.picture ? hints[state.tool] : "Press ? for mouse and keys.";
  if (state.hovered === null) byId("tooltip").hidden = true;
  showGroups();
  showExport();
  painter.ask();
}

function showDoc() {
  byId("undo").disabled = !state.history.past.length;
  byId("redo").disabled = !state.history.future.length;
  showObjects();
  showLook();
  complete();
  regroup();
}

function showPicture() {
  const { picture } = state;
  const scaled = picture?.scaling ? ` · levels ${short(picture.scaling.low)} to ${short(picture.scaling.high)} shown` : "";
  byId("picture-name").textContent = picture ? `${picture.name} · ${picture.width} × ${picture.height}${scaled}` : "";
  byId("start").hidden = picture !== null;
  for (const id of ["opacity", "zoom-in", "zoom-out", "zoom-fit"]) byId(id).disabled = picture === null;
  canvas.setAttribute("aria-label", picture ? `Picture ${picture.name}, ${picture.width} by ${picture.height} pixels` : "No picture yet");
  if (picture && !picture.sessionId) {
    fit();
    setTab("objects");
  } else if (view.fitted) fit();
  showLook();
}

const undo = () => state.history.undo() && state.tell("doc");
const redo = () => state.history.redo() && state.tell("doc");

function setOpacity(percent) {
  const value = Math.min(100, Math.max(0, percent));
  byId("opacity").value = value;
  state.set({ opacity: value / 100 });
}

const actions = {
  open: () => byId("file").click(),
  undo, redo, newObject, fit,
  help: () => help(byId("dialog")),
  segment: () => setTool("segment"),
  select: () => setTool("select"),
  pan: () => setTool("pan"),
  scale: () => setTool("scale"),
  zoomIn: () => view.zoom(ZOOM_STEP),
  zoomOut: () => view.zoom(1 / ZOOM_STEP),
  actualSize: () => view.zoom(1 / view.scale),
  nextCandidate: () => nextCandidate(),
  remove: () => state.doc.active !== null && remove(state.doc.active),
  lessOpaque: () => setOpacity(Math.round(state.opacity * 100) - OPACITY_STEP),
  moreOpaque: () => setOpacity(Math.round(state.opacity * 100) + OPACITY_STEP),
  find: () => { setTab("groups"); document.querySelector("#groups-panel form").requestSubmit(); },
  objects: () => setTab("objects"),
  everything: () => setTab("groups"),
  exports: () => setTab("export"),
  leave: () => { state.job?.cancel(); input.forget(); selectGroup(null); newObject(); },
};

function onKey(event) {
  const isTyping = event.target.closest?.("input:not([type=range]):not([type=checkbox]), select, dialog");
  if (event.key === " " && event.target === canvas) {
    input.spaceHeld = true;
    event.preventDefault();
  }
  if (isTyping || event.altKey) return;
  const control = event.ctrlKey || event.metaKey;
  const name = `${control ? "Ctrl+" : ""}${control && event.shiftKey ? "Shift+" : ""}${event.key.length === 1 ? event.key.toLowerCase() : event.key}`;
  const found = KEYS.find(({ keys }) => keys.includes(name));
  if (!found?.action || (!state.picture && !["open", "help"].includes(found.action))) return;
  event.preventDefault();
  actions[found.action]();
}

function openFiles(files) {
  const file = [...(files ?? [])][0];
  if (file) open(file, file.name || "pasted picture");
}

/** Arrow keys move within a tool bar or a row of tabs, as the ARIA practices say. */
function rove(container, take) {
  container.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    const all = [...container.children];
    const next = all[(all.indexOf(document.activeElement) + by + all.length) % all.length];
    event.preventDefault();
    take(next);
    next.focus();
  });
}

function connect() {
  const clicks = {
    open: "open", choose: "open", help: "help", undo: "undo", redo: "redo",
    "zoom-in": "zoomIn", "zoom-out": "zoomOut", "zoom-fit": "fit",
  };
  for (const [id, action] of Object.entries(clicks)) byId(id).addEventListener("click", actions[action]);
  const tabs = document.querySelector("[role=tablist]");
  const takeTab = (tab) => setTab(tab.id.replace("tab-", ""));
  tabs.addEventListener("click", (event) => event.target.closest("[role=tab]") && takeTab(event.target.closest("[role=tab]")));
  rove(tabs, takeTab);
  const tools = document.querySelector(".tools");
  tools.addEventListener("click", (event) => {
    const button = event.target.closest("[data-tool]");
    if (button) setTool(button.dataset.tool);
  });
  rove(tools, (button) => setTool(button.dataset.tool));
  byId("opacity").addEventListener("input", (event) => setOpacity(event.target.valueAsNumber));
  byId("file").addEventListener("change", (event) => { openFiles(event.target.files); event.target.value = ""; });
  document.addEventListener("paste", (event) => openFiles(event.clipboardData?.files));
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", (event) => { if (event.key === " ") input.spaceHeld = false; });
  document.addEventListener("dragover", (event) => { event.preventDefault(); byId("drop-hint").hidden = false; });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop-hint").hidden = true; });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    byId("drop-hint").hidden = true;
    openFiles(event.dataTransfer?.files);
  });
  new ResizeObserver(() => (view.fitted ? fit() : painter.ask())).observe(canvas);
  view.addEventListener("change", () => {
    byId("zoom").textContent = `${Math.round(view.scale * 100)} %`;
    painter.ask();
  });
  state.addEventListener("doc", showDoc);
  state.addEventListener("look", showLook);
  state.addEventListener("picture", showPicture);
}

placeIcons();
if (isTouched.matches) byId("start-title").textContent = "Take or choose a picture";
listen();
connect();
buildGroups({ reveal, measureScale: () => setTool("scale") });
loadSamples(byId("samples"), open);
showPicture();
showDoc();
tellTruth().catch((error) => {
  byId("truth").textContent = error instanceof Problem ? `No model: ${error.message}` : "The server does not answer";
  complain("The server has no model", error);
});
