// What a person can do next, by the state of the folder.

import { element, labelName, plural } from "./api.js";

/** Images of each class that are a start; with fewer, a score says little. */
const START = 30;

const step = (id, title) => element("button", { type: "button", class: "link", onclick: () => document.getElementById(`tab-${id}`).click() }, title);

/** The sentence about what to do next, with links to the steps, for a folder that has images. */
export function hint({ classes, unlabelled }) {
  const used = classes.filter(({ images }) => images);
  const few = used.filter(({ images }) => images < START);
  if (!used.length) return ["Next: name a class (at the side), select its images here, and press its number or tap it below them."];
  if (used.length < 2) return [`Next: a second class. A model tells classes apart, and only ${labelName(used[0].name)} has images.`];
  if (few.length) return [`Next: more images. ${few.slice(0, 3).map(({ name, images }) => `${name} has ${images}`).join(", ")}; about ${START} of each class are a start. You can `, step("training", "train"), " at any time."];
  const rest = unlabelled ? [`${plural(unlabelled, "image")} without a label are not trained on. `] : [];
  return [...rest, "Next: look at the ", step("suspects", "suspects"), ", then ", step("training", "train"), "."];
}

/** How to begin, for a folder without images. */
export function beginning(path, choose) {
  return [
    element("h2", {}, "No images yet"),
    element("ol", {},
      element("li", {}, "Photograph each class with the ", step("camera", "camera"), ","),
      element("li", {}, "or name a class at the side, choose it, and drop its image files here (or ", element("button", { type: "button", class: "link", onclick: choose }, "choose image files"), "),"),
      element("li", {}, "or put a folder of images for each class into ", element("code", {}, path), ", and press “Look for new files”.")),
  ];
}

/** Why a filter shows nothing, and what to do. */
export function nothing({ label, text }) {
  if (text) return `No name holds “${text}”.`;
  if (label === "" || label === "-" || label.startsWith("/")) return "No image here.";
  return `No images of ${label} yet: drop files here, use “Add images to ${label}”, or select some under “All images” and choose ${label}.`;
}
