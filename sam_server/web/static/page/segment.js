// Objects by clicks and boxes: every click is a step, and its mask follows as soon as the server has it.

import { Problem, askJson } from "./api.js";
import { complain } from "./messages.js";
import { isForgotten, renew, sessionId } from "./picture.js";
import { activeObject, state } from "./state.js";

// What is asked for one mask: {prompt: {points: [{x, y, label}], box}, before, continues, masks, session}.
// `before` is the {ask, chosen} that was the object's until then; where it `continues`, from its logits. `masks` are null
// until they arrive: once, for every document that shares the ask. `session` is the one that knows them by their ids.

const MOST_TRIES = 3;

let running = null; // {ask, controller} of the request that is on its way

/** Add a point to the active object, or begin one. */
export function addPoint(x, y, label) {
  change((prompt) => ({ ...prompt, points: [...prompt.points, { x, y, label }] }), true);
}

/** Give the active object a box, or begin one. A box starts the mask anew, so that what was asked before is outdated. */
export function setBox(box) {
  change((prompt) => ({ ...prompt, box }), false);
}

function change(edit, continues) {
  if (!state.picture) return;
  const { doc } = state;
  const old = activeObject();
  const before = old && { ask: old.ask, chosen: old.chosen };
  const prompt = edit(old?.ask.prompt ?? { points: [], box: null });
  const asked = { ask: { prompt, before, continues, masks: null, session: null }, chosen: 0 };
  if (old) {
    state.step({ objects: doc.objects.map((each) => (each === old ? { ...old, ...asked } : each)) });
  } else {
    const number = doc.nextNumber;
    const object = { id: number, name: `Object ${number}`, colour: number - 1, ...asked };
    state.step({ objects: [...doc.objects, object], active: number, nextNumber: number + 1 });
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
  if (!old?.ask.masks?.[chosen] || old.chosen === chosen) return;
  state.step({ objects: objects.map((object) => (object === old ? { ...object, chosen } : object)), active: id });
}

/** The next candidate of the active object. */
export function nextCandidate(by = 1) {
  const object = activeObject();
  const count = object?.ask.masks?.length ?? 0;
  if (count > 1) choose(object.id, (object.chosen + by + count) % count);
}

/**
 * What must be answered for an ask to have its masks: itself, or the oldest of those that it continues; null if it has
 * them. However fast the clicks come, each continues from the answer to the one before.
 */
function firstLacking(ask) {
  if (ask.masks) return null;
  return (ask.continues && ask.before && firstLacking(ask.before.ask)) || ask;
}

/** Ask for the masks that the document lacks, one after the other; a request that none of them needs is given up. */
export function complete() {
  const wanted = state.doc.objects.map(({ ask }) => firstLacking(ask)).filter(Boolean);
  if (running && wanted.includes(running.ask)) return;
  running?.controller.abort();
  running = null;
  if (wanted.length) answer(wanted[0]);
}

async function answer(ask) {
  const controller = new AbortController();
  running = { ask, controller };
  try {
    await fill(ask, controller.signal);
    if (controller.signal.aborted) return;
  } catch (error) {
    if (controller.signal.aborted) return;
    complain("No mask for this prompt", error);
    takeBack(ask);
  }
  running = null;
  state.tell("doc");
}

/** Take back the steps that need an answer that does not come; they are not offered again. */
function takeBack(ask) {
  const needsIt = (object) => firstLacking(object.ask) === ask;
  while (state.doc.objects.some(needsIt) && state.history.undo()) state.history.future.pop();
  const objects = state.doc.objects.filter((object) => !needsIt(object));
  if (objects.length < state.doc.objects.length) state.history.amend({ ...state.doc, objects });
}

async function fill(ask, signal) {
  for (let tries = 1; ; tries += 1) {
    const session = await sessionId(signal);
    try {
      await masksIn(session, ask, signal);
      return;
    } catch (error) {
      const isGone = error instanceof Problem && (error.status === 410 || error.status === 404);
      if (!isGone || tries === MOST_TRIES) throw error;
      if (isForgotten(error)) await renew();
      else for (let at = ask.before; at; at = at.ask.before) at.ask.session = null;
    }
  }
}

/**
 * The masks of an ask under the ids of a session. Ids belong to their session, so in a new one the clicks are made again
 * one by one: the same clicks give the same mask.
 */
async function masksIn(session, ask, signal) {
  if (ask.masks && ask.session === session) return ask.masks;
  const { prompt, before, continues } = ask;
  const base = continues && before ? (await masksIn(session, before.ask, signal))[before.chosen] : null;
  const answered = await askJson("segment", requestOf(prompt, base?.mask_id, session), { signal });
  Object.assign(ask, { masks: answered.results[0].masks, session, before: continues ? before : null });
  return ask.masks;
}

/** One point may mean a whole or a part, so three masks are asked for; more prompts say which. */
function requestOf({ points, box }, base, session) {
  return {
    session_id: session,
    ...(points.length ? { points: points.map(({ x, y }) => [x, y]), point_labels: points.map(({ label }) => label) } : {}),
    ...(box ? { box } : {}),
    ...(base ? { mask_id: base } : {}),
    multimask_output: points.length === 1 && !box && !base,
    mask_format: "polygon",
  };
}
