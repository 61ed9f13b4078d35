// The picture that is open, and its session on the server.

import { Problem, ask } from "./api.js";
import { busy, complain, hush, say } from "./messages.js";
import { EMPTY, state } from "./state.js";

const TELL_EVERY = 100; // milliseconds
const MOST_SHARE = 0.95; // of an encoding that takes longer than the one before

let usualSeconds = null; // that the last picture took to be encoded; every picture is brought to the same size
let opening = null; // AbortController of the picture that is on its way
let renewing = null; // promise of a new session in place of a forgotten one

/** Open a picture: show it at once where the browser can, have it encoded, and show the server's where it differs. */
export async function open(source, name) {
  opening?.abort();
  const { signal } = (opening = new AbortController());
  hush();
  busy("picture", `Reading ${name} …`);
  const way = new Way(name);
  try {
    const local = await createImageBitmap(source).catch(() => null);
    signal.throwIfAborted();
    if (local) show({ name, source, image: local, width: local.width, height: local.height, sessionId: null });
    const session = await post(source, signal, (share) => way.sent(share));
    const { seconds } = way;
    if (!session.cached) usualSeconds = seconds;
    const image = isSame(local, session) ? local : await serversImage(session, signal);
    signal.throwIfAborted();
    const { width, height, scaling } = session;
    if (image === local) Object.assign(state.picture, { sessionId: session.session_id, scaling });
    else show({ name, source, image, width, height, scaling, sessionId: session.session_id });
    say("Ready", `${width} × ${height} pixels, encoded ${session.cached ? "before" : `in ${seconds.toFixed(1)} s`}`);
    state.tell("picture");
    state.tell("ready");
  } catch (error) {
    if (signal.aborted) return;
    if (state.picture && !state.picture.sessionId) show(null);
    complain(`${name} could not be opened`, error);
  } finally {
    way.end();
    if (!signal.aborted) busy("picture", null);
  }
}

/** The way of a picture to its session: how much of it is sent, then for how long it is being encoded. */
class Way {
  constructor(name) {
    this.name = name;
    this.share = null; // of the file that is sent
    this.arrived = null;
    this.ended = null;
    this.timer = setInterval(() => this.tell(), TELL_EVERY);
  }

  sent(share) {
    this.share = share;
    this.arrived = share === 1 ? (this.arrived ?? performance.now()) : null;
    this.tell();
  }

  /** Since the whole file is there. */
  get seconds() {
    return this.arrived === null ? 0 : ((this.ended ?? performance.now()) - this.arrived) / 1000;
  }

  tell() {
    const { name, share, seconds } = this;
    if (share === null || this.ended !== null) return;
    if (share < 1) return busy("picture", `Sending ${name}: ${Math.round(share * 100)} %`, share);
    const usual = usualSeconds === null ? "" : ` of about ${Math.max(0.1, usualSeconds).toFixed(1)}`;
    busy("picture", `Encoding ${name}: ${seconds.toFixed(1)}${usual} s`, usualSeconds && Math.min(MOST_SHARE, seconds / usualSeconds));
  }

  end() {
    this.ended = performance.now();
    clearInterval(this.timer);
  }
}

// The server's picture differs where levels were scaled, or where the browser cannot read the format.
const isSame = (local, session) =>
  local && session.scaling === null && local.width === session.width && local.height === session.height;

async function serversImage(session, signal) {
  return createImageBitmap(await (await ask(`sessions/${session.session_id}/image`, { signal })).blob());
}

async function post(source, signal, sent = () => {}) {
  const body = new FormData();
  body.append("image", source, "picture");
  return (await ask("sessions", { method: "POST", body, signal, sent })).json();
}

function show(picture) {
  state.picture = picture;
  state.history.reset({ ...EMPTY, scale: state.doc.scale });
  Object.assign(state, { grouping: null, selected: new Set(), selectedGroup: null, hovered: null, line: null, cursor: null });
  state.tell("picture");
  state.tell("doc");
}

/** Wait until the picture has a session, and give its id. */
export async function sessionId(signal) {
  while (!state.picture?.sessionId) {
    await new Promise((resolve) => state.addEventListener("ready", resolve, { once: true }));
    signal?.throwIfAborted();
  }
  return state.picture.sessionId;
}

/** Whether an error says that the server forgot the session. */
export const isForgotten = (error) =>
  error instanceof Problem && (error.status === 410 || error.status === 404) && /_?session/.test(error.code);

/** Have the picture encoded again after its session was forgotten; many callers share one request. */
export function renew() {
  renewing ??= (async () => {
    const { picture } = state;
    busy("renew", "The server forgot this picture: encoding it again …");
    try {
      const session = await post(picture.source);
      if (state.picture === picture) picture.sessionId = session.session_id;
    } finally {
      busy("renew", null);
      renewing = null;
    }
  })();
  return renewing;
}

/** The picture's name without its ending, safe in a file name. */
export function baseName() {
  const name = (state.picture?.name ?? "picture").replace(/\.[^.]{1,5}$/, "");
  return name.replace(/[\u0000-\u001f\\/:*?"<>|]+/g, "_").slice(0, 100) || "picture";
}

