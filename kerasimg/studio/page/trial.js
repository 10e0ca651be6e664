// The view to try a model: an image or the live camera; classes, the set, where the model looks, the nearest images.

import { element, fail, guarded, labelName, part, say, send } from "./api.js";
import { fillRuns, need, percent } from "./jobs.js";
import { Video } from "./video.js";

const video = new Video(part("try-video"));
let turn = 0;
let image = null;

const address = (task) => `api/runs/${encodeURIComponent(part("try-run").value)}/${task}`;

function bars(probabilities) {
  return probabilities.slice(0, 5).map(([name, value]) => {
    const line = element("span", { class: "line", "aria-hidden": "true" });
    line.style.setProperty("--share", value);
    return element("li", {}, element("span", {}, name), element("span", { class: "share" }, percent(value)), line);
  });
}

async function look(blob, live = false) {
  const mine = ++turn;
  image = blob;
  if (!live) {
    URL.revokeObjectURL(part("try-image").src);
    part("try-image").src = URL.createObjectURL(blob);
    part("try-image").hidden = false;
    part("try-map").hidden = true;
    part("try-near").replaceChildren();
    part("try-bars").replaceChildren();
    part("try-verdict").textContent = "Asking the model …";
    part("try-sure").textContent = "The first answer of a run takes some seconds.";
    part("try-result").hidden = false;
    say("");
  }
  let answer;
  try {
    answer = await send(address("predict"), blob);
  } catch (error) {
    if (mine === turn && !live) part("try-result").hidden = true;
    throw error;
  }
  if (mine !== turn) return;
  const foreign = answer.known === false;
  part("try-verdict").textContent = foreign ? "None of these" : [answer.label].flat().join(", ") || "none of the labels";
  part("try-sure").textContent = foreign
    ? "Unlike the images that the model was trained on."
    : `${percent(answer.confidence)} sure${answer.set ? `; the set: ${answer.set.join(", ") || "empty"}` : ""}.`;
  part("try-bars").replaceChildren(...bars(answer.probabilities));
  part("try-result").hidden = false;
  part("try-result").dataset.turn = turn;
}

const explain = guarded(async () => {
  part("try-explain").disabled = true;
  try {
    const map = await send(address("explain"), image);
    part("try-map").src = map.image;
    part("try-map").alt = `Where the model sees ${map.target}`;
    part("try-map").hidden = false;
  } finally { part("try-explain").disabled = false; }
});

const findNearest = guarded(async () => {
  say("Comparing with the training images …");
  const near = await send(address("nearest"), image);
  say("");
  part("try-near").replaceChildren(...near.map(({ image: [number, path, label], similarity }) =>
    element("figure", {}, element("img", { src: `thumbnail/${number}`, alt: path, width: 96, height: 96 }),
      element("figcaption", {}, `${labelName(label)} ${similarity.toFixed(2)}`))));
});

async function live() {
  while (video.stream) {
    try { await look(await video.frame(480), true); } catch (error) { fail(error); stop(); }
    await new Promise((done) => setTimeout(done, 150));
  }
}

function stop() {
  video.stop();
  part("try-live").textContent = "Live camera";
}

part("try-live").addEventListener("click", guarded(async () => {
  if (video.stream) return stop();
  await video.start();
  part("try-image").hidden = part("try-map").hidden = true;
  part("try-live").textContent = "Stop the camera";
  return live();
}));
part("try-image").addEventListener("error", () => {
  part("try-image").hidden = true;
  say("This browser cannot show a file of this kind; the model reads it all the same.");
});
part("try-choose").addEventListener("click", () => part("try-file").click());
part("try-file").addEventListener("change", guarded(async ({ target }) => {
  const file = target.files[0];
  target.value = "";
  if (file) await look(file);
}));
part("try-explain").addEventListener("click", explain);
part("try-nearest").addEventListener("click", findNearest);
part("trial").addEventListener("dragover", (event) => event.preventDefault());
part("trial").addEventListener("drop", guarded(async (event) => {
  event.preventDefault();
  const file = event.dataTransfer.files[0];
  if (file) await look(file);
}));
addEventListener("paste", guarded(async (event) => {
  const file = event.clipboardData?.files[0];
  if (file && !part("trial").hidden) await look(file);
}));

export function enter() { fillRuns(part("try-run")).then((runs) => { part("try-work").hidden = !need(runs, "try-none"); }).catch(fail); }
export { stop as leave };
