// Every mask of the picture as a job, and groups of them; groups follow every slider at once.

import { Problem, askJson, ask, follow } from "./api.js";
import { withSet } from "./keep.js";
import { complain, say } from "./messages.js";
import { isForgotten, renew, sessionId } from "./picture.js";
import { shownGrouping, state } from "./state.js";

let choices = null; // presets and methods that the server offers
let regrouping = null; // AbortController of the newest request for groups

/** Presets and methods with the values that they begin with. */
export async function loadChoices() {
  choices ??= await askJson("page/choices.json");
  return choices;
}

/** A choice that begins with a preset or a method: {source, methods, filters}. */
export function choiceOf(source) {
  const [kind, name] = source.split(":");
  if (kind === "preset") {
    const preset = choices.presets[name];
    return { source, methods: preset.methods, filters: preset.filters };
  }
  const filters = choices.presets.everything.filters;
  return { source, methods: [{ method: name, ...choices.methods[name].parameters }], filters };
}

/** Search the picture for every mask. */
export async function findMasks(parameters) {
  if (state.job || !state.picture) return;
  const picture = state.picture;
  const controller = new AbortController();
  state.set({ job: { state: "queued", progress: {}, cancel: () => controller.abort() } });
  try {
    const job = await run(parameters, controller);
    if (job?.state === "failed") throw new Problem(500, job.error.code, job.error.detail);
    if (job?.state !== "done" || state.picture !== picture) return;
    const answer = await askJson(`mask_sets/${job.result.mask_set_id}?mask_format=polygon`);
    if (state.picture !== picture) return;
    const set = { id: answer.mask_set_id, masks: answer.masks, parameters: answer.parameters };
    const choice = state.doc.choice ?? choiceOf("preset:everything");
    Object.assign(state, { grouping: null, selected: new Set(), selectedGroup: null, hovered: null, tool: "select" });
    state.step({ set, choice });
    if (!set.masks.length) say("No masks found", "Search with more points, or lower the thresholds.");
  } catch (error) {
    if (!controller.signal.aborted) complain("The search for masks failed", error);
  } finally {
    state.set({ job: null });
  }
}

async function run(parameters, controller) {
  let job = null;
  for (let tries = 0; job === null; tries += 1) {
    const session = await sessionId(controller.signal);
    try {
      job = await askJson("generate_masks", { session_id: session, ...parameters }, {
        headers: { Prefer: "respond-async" }, signal: controller.signal,
      });
    } catch (error) {
      if (!isForgotten(error) || tries) throw error;
      await renew();
    }
  }
  const cancel = () => ask(`jobs/${job.job_id}`, { method: "DELETE" }).catch((error) => complain("The search could not be stopped", error));
  controller.signal.addEventListener("abort", cancel);
  if (controller.signal.aborted) return void (await cancel());
  return follow(job.job_id, (step) => {
    state.set({ job: { ...step, cancel: () => controller.abort() } });
  }, controller.signal);
}

/** Group by a preset or a method, with its own values. */
export function startFrom(source) {
  state.step({ choice: choiceOf(source), method: null });
}

/** Change filters, or parameters of a method. `quiet` steps complete the last one, such as while a slider moves. */
export function adjust({ filters = {}, method = null, parameters = {} }, quiet = false) {
  const { choice } = state.doc;
  if (!choice) return;
  const methods = choice.methods.map((each) => (each.method === method ? { ...each, ...parameters } : each));
  const changed = { choice: { ...choice, filters: { ...choice.filters, ...filters }, methods } };
  if (quiet) state.amend(changed);
  else state.step(changed);
}

/** The body that asks for the document's groups. */
function groupRequest({ set, choice, scale }) {
  const filters = Object.fromEntries(Object.entries(choice.filters).filter(([, value]) => value !== null && value !== false));
  const methods = choice.methods.map((each) => Object.fromEntries(Object.entries(each).filter(([, value]) => value !== null)));
  const size = scale.unit === "px" ? {} : { pixel_size: scale.pixelSize, unit: scale.unit };
  return { mask_set_id: set.id, methods, filters, include_measures: true, ...size };
}

/** Ask for the groups of the document if those at hand answer another one. */
export async function regroup() {
  const { set, choice, scale } = state.doc;
  if (!set || !choice) {
    if (state.grouping) state.set({ grouping: null, selected: new Set(), selectedGroup: null, hovered: null });
    return;
  }
  const asked = JSON.stringify(groupRequest(state.doc));
  if (regrouping?.asked === asked || state.grouping?.asked === asked) return;
  regrouping?.controller.abort();
  const controller = new AbortController();
  regrouping = { controller, asked };
  try {
    const answer = await withSet(set, () =>
      askJson("group_masks", { ...JSON.parse(asked), mask_set_id: set.id }, { signal: controller.signal }));
    controller.signal.throwIfAborted();
    regrouping = null;
    // With the id that the set has now, so that the document's question is the one that was answered.
    answer.asked = JSON.stringify(groupRequest({ set, choice, scale }));
    answer.row = new Map(answer.kept.map((mask, row) => [mask, row]));
    const selected = new Set([...state.selected].filter((mask) => answer.row.has(mask)));
    state.set({ grouping: answer, selected, hovered: null });
    if (state.selectedGroup !== null) selectGroup(state.selectedGroup);
  } catch (error) {
    if (controller.signal.aborted) return;
    regrouping = null;
    complain("The masks could not be grouped", error);
  }
}

/** Select all masks of a group, or none. */
export function selectGroup(name) {
  const group = shownGrouping()?.groups.find((each) => each.name === name);
  state.set({ selected: new Set(group?.masks ?? []), selectedGroup: group ? name : null });
}

/** Select one mask, and with `adding` keep the others. */
export function selectMask(mask, adding = false) {
  const selected = adding ? new Set(state.selected) : new Set();
  if (adding && selected.has(mask)) selected.delete(mask);
  else selected.add(mask);
  state.set({ selected, selectedGroup: null });
}

/** The name of the group of a mask. */
export const groupOf = (mask) => shownGrouping()?.groups.find((group) => group.masks.includes(mask))?.name ?? null;
