// The server over HTTP: problems as errors, patience with a busy server, timings.

const KEY = "mask-grouping-server-key";
const SECONDS_TO_RECONNECT = 1;

/** An RFC 9457 problem, or no answer at all (status 0). */
export class Problem extends Error {
  constructor(status, code, detail, { retryAfter = null, requestId = null } = {}) {
    super(detail);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
    this.requestId = requestId;
  }
}

// Told about every answer, every wait for a busy server (seconds, or null when it is over), and asked for a key.
export const listeners = { answered: () => {}, waiting: () => {}, keyWanted: async () => null };

const wait = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });

async function problemOf(answer) {
  const document = await answer.json().catch(() => ({}));
  const detail = document.detail ?? `${answer.status} ${answer.statusText}`;
  return new Problem(answer.status, document.code ?? "error", detail, {
    retryAfter: Number(answer.headers.get("Retry-After")) || null,
    requestId: document.request_id ?? answer.headers.get("X-Request-ID"),
  });
}

/** What to throw where a connection broke: a problem, unless it was given up. */
const unlessAborted = (error, signal) =>
  error.name === "AbortError" || signal?.aborted
    ? error
    : new Problem(0, "no_answer", "The server does not answer: check that it runs and that the network is there.");

/** As fetch does it, but `sent` is told the share of the body that is on its way, which fetch cannot tell. */
function upload(path, { method, body, signal, sent }, headers) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, path);
    headers.forEach((value, name) => request.setRequestHeader(name, value));
    request.responseType = "blob";
    request.upload.onprogress = ({ loaded, total }) => sent(total ? loaded / total : 0);
    request.upload.onload = () => sent(1);
    request.onload = () => {
      const lines = request.getAllResponseHeaders().trim().split("\r\n");
      const pairs = lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]);
      resolve(new Response(request.response, { status: request.status, statusText: request.statusText, headers: pairs }));
    };
    request.onerror = () => reject(new TypeError("no answer"));
    request.onabort = () => reject(signal.reason);
    signal?.addEventListener("abort", () => request.abort());
    if (signal?.aborted) reject(signal.reason);
    else request.send(body);
  });
}

async function once(path, options) {
  const headers = new Headers(options.headers);
  const key = sessionStorage.getItem(KEY);
  if (key) headers.set("X-API-Key", key);
  const started = performance.now();
  let answer;
  try {
    answer = await (options.sent ? upload(path, options, headers) : fetch(path, { ...options, headers }));
  } catch (error) {
    throw unlessAborted(error, options.signal);
  }
  if (!answer.ok) throw await problemOf(answer);
  const took = performance.now() - started;
  listeners.answered({ path, took, timing: timingOf(answer.headers.get("Server-Timing")) });
  return answer;
}

/** `{phase: milliseconds}` of a Server-Timing header. */
function timingOf(header) {
  const parts = (header ?? "").split(",").map((part) => /^\s*(\w+);dur=([\d.]+)/.exec(part)).filter(Boolean);
  return Object.fromEntries(parts.map(([, name, took]) => [name, Number(took)]));
}

/**
 * Ask the server, and again for as long as it is busy and says when to come back.
 * @returns {Promise<Response>} an answer with a good status
 */
export async function ask(path, options = {}) {
  for (;;) {
    try {
      const answer = await once(path, options);
      listeners.waiting(null);
      return answer;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status === 401) {
        const key = await listeners.keyWanted(error.message);
        if (!key) throw error;
        sessionStorage.setItem(KEY, key);
      } else if ((error.status === 503 || error.status === 429) && error.retryAfter) {
        listeners.waiting({ seconds: error.retryAfter, detail: error.message });
        await wait(error.retryAfter, options.signal).finally(() => listeners.waiting(null));
      } else {
        throw error;
      }
    }
  }
}

/** Ask with JSON, answer from JSON. */
export async function askJson(path, body, options = {}) {
  const sent = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const headers = { ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...options.headers };
  return (await ask(path, { ...sent, ...options, headers })).json();
}

/**
 * Follow a job until it ends; a stream that breaks off is taken up again.
 * @param {function(object)} tell called with the job at every step
 * @returns {Promise<object>} the ended job
 */
export async function follow(jobId, tell, signal) {
  for (;;) {
    const job = await readEvents(jobId, tell, signal);
    if (["done", "failed", "cancelled"].includes(job?.state)) return job;
    await wait(SECONDS_TO_RECONNECT, signal);
  }
}

/** The last job of a stream of server-sent events. EventSource sends no key, so the stream is read here. */
async function readEvents(jobId, tell, signal) {
  const answer = await ask(`jobs/${jobId}/events`, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let job = null;
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (signal?.aborted) throw error;
      return { done: true };
    });
    if (done) return job;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (!data) continue;
      job = JSON.parse(data.slice(6));
      tell(job);
    }
  }
}
