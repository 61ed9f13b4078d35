// Masks that the page has, given to the server to be measured, grouped and exported there.

import { Problem, askJson } from "./api.js";
import { runLengths } from "./geometry.js";
import { isForgotten, renew, sessionId } from "./picture.js";
import { state } from "./state.js";

/** Have the server keep masks; gives the id of their set. Their numbers are their places. */
export async function keepMasks(masks) {
  const { width, height } = state.picture;
  const sent = masks.map(({ segmentation, predicted_iou, stability_score }) => (
    { segmentation: runLengths(segmentation, width, height), predicted_iou, stability_score }));
  const send = async () => askJson("mask_sets", { session_id: await sessionId(), masks: sent });
  const set = await send().catch(async (error) => {
    if (!isForgotten(error)) throw error;
    await renew();
    return send();
  });
  return set.mask_set_id;
}

/** Do what needs the set of masks found. Where the server forgot the set, it is given to it again. */
export async function withSet(set, work) {
  try {
    return await work();
  } catch (error) {
    const isLost = error instanceof Problem && [404, 410].includes(error.status) && error.code.includes("mask_set");
    if (!isLost || !set.masks.length) throw error;
    set.id = await keepMasks(set.masks);
    return work();
  }
}
