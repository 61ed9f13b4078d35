// What the page says: problems, waiting, the truth about the server, the time of the last answer.

import { Problem, askJson, listeners } from "./api.js";
import { byId, el, short } from "./dom.js";
import { icon } from "./icons.js";

const NOTE_SECONDS = 6;
const work = new Map(); // what goes on: kind -> {text, share}

/** Say something in the corner; `bad` ones stay until they are closed. */
export function say(title, text = "", { bad = false } = {}) {
  const message = el(
    "div", { class: bad ? "message" : "message note" },
    el("strong", {}, title),
    el("button", { type: "button", class: "plain", "aria-label": "Close", onclick: () => message.remove() }, icon("close")),
    el("p", {}, text),
  );
  const shown = byId("messages");
  shown.append(message);
  while (shown.children.length > 3) shown.firstChild.remove();
  if (!bad) setTimeout(() => message.remove(), NOTE_SECONDS * 1000);
}

// Words begin a sentence; names of fields stay as they are written.
const sentence = (text) => (/^[a-z]+[ ,]/.test(text) ? text.charAt(0).toUpperCase() + text.slice(1) : text);

/** Say an error in the server's words; an outdated request is none. */
export function complain(what, error) {
  if (error?.name === "AbortError") return;
  if (!(error instanceof Problem)) {
    say(what, `This page made a mistake: ${error?.message ?? error}`, { bad: true });
    return;
  }
  const request = error.requestId ? ` (request ${error.requestId})` : "";
  say(what, `${sentence(error.message)}${request}`, { bad: true });
}

/**
 * Say that work goes on; the newest kind is shown.
 * @param {string} kind of work
 * @param {string|null} text null when it ended
 * @param {number|null} share that is done, from 0 to 1, where it is known
 */
export function busy(kind, text, share = null) {
  if (text === null) work.delete(kind);
  else work.set(kind, { text, share });
  const newest = [...work.values()].at(-1);
  byId("busy").hidden = !newest;
  if (!newest) return;
  byId("busy-text").textContent = newest.text;
  const bar = byId("busy-bar");
  if (newest.share === null) bar.removeAttribute("value");
  else bar.value = newest.share;
}

/** Forget all messages. */
export const hush = () => byId("messages").replaceChildren();

/** Fill in the truth line and the banner; asks until the model is loaded. */
export async function tellTruth() {
  const info = await askJson("backend_info");
  const parts = [
    `${info.model_type} · ${info.backend} (${info.engine})`, info.device, info.precision,
    ...(info.performance_mode ? ["performance mode"] : []), ...info.onnx_providers, `version ${info.version}`,
  ];
  byId("truth").textContent = parts.join(" · ");
  byId("truth").title = info.notes.join("\n");
  if (info.fallback_reason) {
    const wish = `${info.requested_backend} / ${info.requested_model_type}`;
    const standIn = info.model_type === info.requested_model_type
      ? `Not what was asked for (${wish}).`
      : `The model ${info.model_type} stands in for ${info.requested_model_type}: masks are less exact.`;
    byId("banner").replaceChildren(el("strong", {}, standIn), sentence(info.fallback_reason));
    byId("banner").hidden = false;
  }
  return info;
}

/** Show times of answers and waits for a busy server as they come. */
export function listen() {
  listeners.answered = ({ path, took, timing }) => {
    const phases = Object.entries(timing).filter(([name]) => name !== "total" && name !== "cache");
    const details = phases.map(([name, ms]) => `${name} ${short(ms)}`).join(", ");
    const server = timing.total === undefined ? "" : `, server ${short(timing.total)} ms`;
    const name = path.split(/[/?]/)[0];
    byId("last").textContent = `Last answer: ${name} in ${short(took)} ms${server}${details ? ` (${details} ms)` : ""}`;
  };
  let timer = null;
  listeners.waiting = (wait) => {
    clearInterval(timer);
    if (wait === null) {
      busy("wait", null);
      timer = null;
      return;
    }
    let left = Math.ceil(wait.seconds);
    const tick = () => busy("wait", `${wait.detail} – again in ${Math.max(0, left--)} s`);
    tick();
    timer = setInterval(tick, 1000);
  };
  listeners.keyWanted = askForKey;
}

function askForKey(detail) {
  const dialog = byId("dialog");
  return new Promise((resolve) => {
    const key = el("input", { type: "password", id: "api-key", autocomplete: "off", class: "grow" });
    const form = el(
      "form", { method: "dialog", class: "stack", onsubmit: () => dialog.close(key.value) },
      el("h2", { id: "dialog-title" }, "This server wants an API key"),
      el("p", { class: "quiet" }, detail),
      el("p", { class: "row" }, el("label", { for: "api-key" }, "Key"), key, el("button", { class: "primary" }, "Use it")),
    );
    dialog.replaceChildren(form);
    dialog.addEventListener("close", () => resolve(dialog.returnValue || null), { once: true });
    dialog.returnValue = "";
    dialog.showModal();
  });
}
