// The page: drop, choose, paste or photograph an image, and see what it is.

import { Classifier } from "./classifier.js";

const SHOWN = 5;
export const part = (id) => document.getElementById(id);
let asked = 0;
let stream = null;
const LOOK = { title: "Take the image", taken: null };
let shooting = LOOK;

/** A promise of the classifier, for tests and the console. */
window.kerasimg = open();

window.kerasimg.then(ready, (error) => fail(`The model could not be loaded: ${error.message}`));

async function open() {
  // ?accelerator=webgpu computes on the GPU.
  const accelerator = new URLSearchParams(location.search).get("accelerator") ?? "wasm";
  if (!part("model")) return Classifier.load("./", accelerator);
  const [model, loader, wasm] = await Promise.all(["model", "litert-loader", "litert-wasm"].map(unpacked));
  // LiteRT's loader takes the binary from here instead of fetching it.
  window.Module = { wasmBinary: wasm.buffer };
  const address = URL.createObjectURL(new Blob([loader], { type: "text/javascript" }));
  const examples = part("examples") ? JSON.parse(new TextDecoder().decode(await unpacked("examples"))) : null;
  return Classifier.open(JSON.parse(part("about").textContent), model, `${address}#loader.js`, examples, accelerator);
}

/** The bytes of a script element that holds a gzipped file in base64. */
async function unpacked(id) {
  const characters = atob(part(id).textContent.trim());
  const packed = Uint8Array.from(characters, (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export function showClasses(classes) {
  const more = classes.length > 8 ? ` and ${classes.length - 8} more` : "";
  part("tells").textContent = `Classes: ${classes.slice(0, 8).join(", ")}${more}.`;
}

function ready({ about }) {
  showClasses(about.classes);
  part("status").textContent = "Ready.";
  for (const control of document.querySelectorAll("[data-waits]")) control.disabled = false;
  document.body.dataset.ready = "yes";
}

export function fail(message) {
  part("problem").textContent = message;
  part("problem").hidden = false;
  part("status").textContent = "";
}

/** Shows an image and its classification.  image: a Blob. */
async function look(image, name) {
  const turn = ++asked;
  part("problem").hidden = true;
  part("status").textContent = `Looking at ${name} …`;
  show(image, name);
  try {
    const classifier = await window.kerasimg;
    await new Promise((painted) => setTimeout(painted)); // so that the image is painted first
    const began = performance.now();
    const answer = await classifier.classify(image);
    if (turn === asked) showAnswer(answer, name, performance.now() - began);
  } catch (error) {
    if (turn !== asked) return;
    part("result").hidden = true;
    fail(`${name} ${error.message}`);
  }
}

function show(image, name) {
  const view = part("image");
  URL.revokeObjectURL(view.src);
  view.src = URL.createObjectURL(image);
  view.alt = name;
  part("bars").replaceChildren();
  part("verdict").textContent = "";
  part("result").hidden = false;
}

function showAnswer({ label, ranked, known }, name, milliseconds) {
  const verdict = Array.isArray(label) ? label.join(", ") || "none of the labels" : label;
  part("verdict").textContent = known === false ? `None of the classes; nearest: ${verdict}` : verdict;
  part("bars").replaceChildren(...ranked.slice(0, SHOWN).map(bar));
  part("took").textContent = `${Math.max(1, Math.round(milliseconds))} ms in this browser`;
  part("status").textContent = `${name}: ${known === false ? "none of the classes; nearest: " : ""}${verdict}, ${percent(ranked[0].probability)}.`;
  part("result").dataset.turn = asked;
  part("result").scrollIntoView({ block: "nearest" });
}

function bar({ label, probability, holds }) {
  const row = document.createElement("li");
  row.className = holds ? "holds" : "";
  row.style.setProperty("--share", probability);
  const [title, share, line] = ["title", "share", "line"].map((kind) => {
    const cell = document.createElement("span");
    cell.className = kind;
    return cell;
  });
  title.textContent = label;
  share.textContent = percent(probability);
  line.setAttribute("aria-hidden", "true");
  row.append(title, share, line);
  return row;
}

function percent(probability) {
  const value = probability * 100;
  return `${value > 0 && value < 0.1 ? "< 0.1" : value.toFixed(1)} %`;
}

function takeFirst(files) {
  const file = [...files][0];
  if (file) look(file, file.name || "the image");
}

part("choose").addEventListener("click", () => part("file").click());
part("file").addEventListener("change", ({ target }) => {
  takeFirst(target.files);
  target.value = ""; // so that the same file can be chosen again
});

let entered = 0; // a drag enters and leaves each element that it passes
const dragging = (count) => {
  entered = Math.max(0, count);
  document.body.classList.toggle("dragging", entered > 0);
};
addEventListener("dragenter", () => dragging(entered + 1));
addEventListener("dragleave", () => dragging(entered - 1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  dragging(0);
  takeFirst(event.dataTransfer.files);
});
addEventListener("paste", (event) => takeFirst(event.clipboardData.files));

const CAMERA = {
  NotAllowedError: "The camera was not allowed.",
  NotFoundError: "There is no camera.",
  NotReadableError: "The camera is in use by another program.",
};

part("camera").addEventListener("click", () => openCamera(LOOK));

/** Opens the camera.  taken: is called with each image; without it, the camera closes and the image is classified. */
export async function openCamera({ title, taken }) {
  shooting = { title, taken };
  part("shoot").textContent = title;
  if (stream) return;
  if (!navigator.mediaDevices) {
    fail("This browser gives the camera only to pages from a server (https); choose an image instead.");
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    part("video").srcObject = stream;
    await part("video").play();
    part("viewfinder").hidden = false;
    part("ways").hidden = true;
    part("shoot").focus();
  } catch (error) {
    fail(CAMERA[error.name] ?? `The camera cannot be used: ${error.message}`);
  }
}

part("shoot").addEventListener("click", async () => {
  const video = part("video");
  const frame = document.createElement("canvas");
  [frame.width, frame.height] = [video.videoWidth, video.videoHeight];
  frame.getContext("2d").drawImage(video, 0, 0);
  const { taken } = shooting;
  if (!taken) closeCamera();
  // PNG is lossless: the classified image is the one shown.
  frame.toBlob((image) => (taken ?? ((shot) => look(shot, "the photograph")))(image), "image/png");
});

part("stop").addEventListener("click", closeCamera);
addEventListener("keydown", ({ key }) => key === "Escape" && stream && closeCamera());

function closeCamera() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  part("video").srcObject = null;
  part("viewfinder").hidden = true;
  part("ways").hidden = false;
  part("camera").focus();
}
