// Objects by clicks and boxes: every click is a step, and its mask follows as soon as the server has it.

import { Problem, askJson } from "./api.js";
import { complain } from "./messages.js";
import { isForgotten, renew, sessionId } from "./picture.js";
import { activeObject, maskOf, state } from "./state.js";

let running = null; // AbortController of the request for the newest prompt

const isEmpty = (prompt) => prompt.points.length === 0 && !prompt.box;

/** Add a point to the active object, or begin one. */
export function addPoint(x, y, label) {
  change((prompt) => ({ ...prompt, points: [...prompt.points, { x, y, label }] }));
}

/** Give the active object a box, or begin one. */
export function setBox(box) {
  change((prompt) => ({ ...prompt, box }));
}

/** Take back the newest point of the active object without leaving the rest. */
export function dropPoint(object, index) {
  change((prompt) => ({ ...prompt, points: prompt.points.filter((_, number) => number !== index) }), object);
}

function change(edit, object = activeObject()) {
  if (!state.picture) return;
  const { doc } = state;
  const old = object ?? { id: doc.nextNumber, name: `Object ${doc.nextNumber}`, colour: doc.nextNumber - 1, prompt: { points: [], box: null } };
  const next = { ...old, prompt: edit(old.prompt), base: maskOf(old)?.mask_id ?? null, masks: null, chosen: 0, shown: maskOf(old) ?? old.shown };
  if (object) {
    state.step({ objects: doc.objects.map((each) => (each === object ? next : each)), active: next.id });
  } else {
    state.step({ objects: [...doc.objects, next], active: next.id, nextNumber: doc.nextNumber + 1 });
  }
}

/** Begin a new object with the next click. */
export function newObject() {
  if (state.doc.active !== null) state.step({ active: null });
}

export function activate(id) {
  if (id !== state.doc.active) state.step({ active: id });
}

export function remove(id) {
  const { objects, active } = state.doc;
  state.step({ objects: objects.filter((object) => object.id !== id), active: active === id ? null : active });
}

export function rename(id, name) {
  const { objects } = state.doc;
  const old = objects.find((object) => object.id === id);
  const clean = name.trim().slice(0, 80);
  if (!clean || clean === old.name) return false;
  state.step({ objects: objects.map((object) => (object === old ? { ...object, name: clean } : object)) });
  return true;
}

/** Take another of the masks that a prompt may have meant. */
export function choose(id, chosen) {
  const { objects } = state.doc;
  const old = objects.find((object) => object.id === id);
  if (!old?.masks?.[chosen] || old.chosen === chosen) return;
  state.step({ objects: objects.map((object) => (object === old ? { ...object, chosen } : object)), active: id });
}

/** The next candidate of the active object. */
export function nextCandidate(by = 1) {
  const object = activeObject();
  if (object?.masks?.length > 1) choose(object.id, (object.chosen + by + object.masks.length) % object.masks.length);
}

/** Ask for the masks that the document lacks; what was asked before is outdated. */
export async function complete() {
  const object = state.doc.objects.find((each) => !each.masks && !isEmpty(each.prompt));
  if (object && running?.object === object) return;
  running?.controller.abort();
  running = null;
  if (!object) {
    if (state.pending) state.set({ pending: false });
    return;
  }
  const controller = new AbortController();
  running = { controller, object };
  state.set({ pending: true });
  try {
    const masks = await masksOf(object, controller.signal);
    controller.signal.throwIfAborted();
    running = null;
    state.pending = false;
    fill(object, masks);
  } catch (error) {
    if (controller.signal.aborted) return;
    running = null;
    state.set({ pending: false });
    complain("No mask for this prompt", error);
    if (state.history.undo()) {
      state.history.future.pop(); // a step that cannot be taken is not offered again
      state.tell("doc");
    }
  }
}

function fill(object, masks) {
  const complete = { ...object, masks, chosen: 0, shown: undefined };
  state.amend({ objects: state.doc.objects.map((each) => (each === object ? complete : each)) });
}

async function masksOf(object, signal) {
  let { base } = object;
  for (let tries = 0; ; tries += 1) {
    const id = await sessionId(signal);
    try {
      const answer = await askJson("segment", requestOf(object, base, id), { signal });
      return answer.results[0].masks;
    } catch (error) {
      const isGone = error instanceof Problem && (error.status === 410 || error.status === 404);
      if (!isGone || tries > 2) throw error;
      // Ids of masks belong to their session: without it the prompt alone must do.
      base = null;
      if (isForgotten(error)) await renew();
    }
  }
}

/** One point may mean a whole or a part, so three masks are asked for; more prompts say which. */
function requestOf({ prompt }, base, session) {
  const { points, box } = prompt;
  return {
    session_id: session,
    ...(points.length ? { points: points.map(({ x, y }) => [x, y]), point_labels: points.map(({ label }) => label) } : {}),
    ...(box ? { box } : {}),
    ...(base ? { mask_id: base } : {}),
    multimask_output: points.length === 1 && !box && !base,
    mask_format: "polygon",
  };
}
