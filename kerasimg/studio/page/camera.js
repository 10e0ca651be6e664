// The view of the camera: photographs into a class, one or a burst after a countdown.

import { element, guarded, onState, part, plural, say, send, state } from "./api.js";
import { Video } from "./video.js";

const BURST = 10;
const COUNTDOWN_S = 3;
const SHOWN = 24;
const video = new Video(part("camera-video"));
const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
let busy = false;

async function photograph() {
  const label = part("camera-class").value.trim();
  if (!label) throw new Error("Name the class first.");
  const { image } = await send(`api/files?${new URLSearchParams({ label })}`, await video.frame());
  part("camera-taken").prepend(element("img", { src: `thumbnail/${image}`, alt: `photograph of ${label}`, width: 96, height: 96 }));
  while (part("camera-taken").children.length > SHOWN) part("camera-taken").lastChild.remove();
}

function showButtons() {
  const on = video.stream !== null;
  part("camera-start").hidden = on;
  for (const id of ["camera-shoot", "camera-burst", "camera-stop"]) part(id).hidden = !on;
}

const once = (work) => guarded(async () => {
  if (busy) return;
  busy = true;
  try { await work(); } finally { busy = false; part("camera-countdown").textContent = ""; }
});

const shoot = once(async () => { await photograph(); say(`1 photograph of ${part("camera-class").value}.`); });
const burst = once(async () => {
  for (let second = COUNTDOWN_S; second > 0; second--) {
    part("camera-countdown").textContent = String(second);
    await sleep(1000);
  }
  part("camera-countdown").textContent = "";
  let taken = 0;
  for (; taken < BURST && video.stream; taken++) { await photograph(); await sleep(200); }
  say(`${plural(taken, "photograph")} of ${part("camera-class").value}.`);
});

part("camera-start").addEventListener("click", guarded(async () => { await video.start(); showButtons(); part("camera-shoot").focus(); }));
part("camera-stop").addEventListener("click", () => { video.stop(); showButtons(); });
part("camera-shoot").addEventListener("click", shoot);
part("camera-burst").addEventListener("click", burst);

export function pressed({ key }) {
  if (!video.stream) return false;
  if (key === " ") shoot();
  else if (key === "b") burst();
  else return false;
  return true;
}

export function leave() { video.stop(); showButtons(); }
onState(() => part("camera-classes").replaceChildren(...state.classes.map(({ name }) => element("option", { value: name }))));
