// Requests to the studio, and what every view needs: messages, the state of the folder, elements.

/** The latest state, as the server has it. */
export const state = { version: -1, path: "", classes: [], total: 0, unlabelled: 0, left_out: 0, to_move: 0, undo: 0, redo: 0 };
const listeners = new Set();
/** What the studio takes, see guard.py. */
const LARGEST_BYTES = 32 * 2 ** 20;

export const part = (id) => document.getElementById(id);

/** An element with attributes, properties (".name") and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key.startsWith(".")) made[key.slice(1)] = value;
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** Replaces the content of a place. What has the focus there has it afterwards, or what came in its stead. */
export function redraw(place, ...children) {
  const controls = () => [...place.querySelectorAll("button, a, select, input")].filter((each) => !each.disabled);
  const focused = controls().indexOf(document.activeElement);
  place.replaceChildren(...children);
  if (focused < 0) return;
  const left = controls();
  const next = left[Math.min(focused, left.length - 1)] ?? place;
  if (next === place) place.tabIndex = -1;
  next.focus({ preventScroll: true });
}

/** Calls a function with every new state. */
export function onState(listener) {
  listeners.add(listener);
}

export function say(message) {
  part("status").textContent = message;
  part("problem").hidden = true;
}

export function fail(error) {
  part("status").textContent = "";
  part("problem").textContent = error.message ?? String(error);
  part("problem").hidden = false;
}

/** The JSON of a response; an error has the server's message. */
export async function read(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The studio does not answer. Is it still running? Start it again and open the address it prints.");
  }
  if (response.status === 403) throw new Error("The studio was started again: open the address that it printed.");
  const text = await response.text();
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Error(text || `error ${response.status}`);
  }
  if (!response.ok) throw new Error(content.error ?? `error ${response.status}`);
  if (Number.isInteger(content.version) && Array.isArray(content.classes)) update(content);
  return content;
}

/** Sends a change.  body: an object, or a Blob. */
export function send(path, body = {}) {
  const plain = !(body instanceof Blob);
  if (!plain && body.size > LARGEST_BYTES) throw new Error(`${body.name ?? "The image"} is larger than ${LARGEST_BYTES / 2 ** 20} MB.`);
  return read(path, {
    method: "POST",
    headers: { "content-type": plain ? "application/json" : "application/octet-stream" },
    body: plain ? JSON.stringify(body) : body,
  });
}

/** Runs a handler, and shows its error. */
export const guarded = (handler) => async (...parameters) => {
  try {
    return await handler(...parameters);
  } catch (error) {
    fail(error);
    return undefined;
  }
};

export function update(summary) {
  if (summary.version < state.version) return;
  const changed = summary.version !== state.version;
  Object.assign(state, summary);
  if (changed) for (const listener of listeners) listener(state);
}

/** Asks now and then whether another tab has changed something. */
export function watch() {
  const ask = async () => {
    if (!document.hidden) await read("api/state").catch(fail);
    setTimeout(ask, 1500);
  };
  ask();
}

/** How a label is shown. */
export const labelName = (label) => (label === null ? "no label" : label === "/left_out" ? "left out" : label);
export const count = (number) => number.toLocaleString("en");
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
