// The steps as tabs, keys that hold everywhere, and the first state.

import { element, part, watch } from "./api.js";
import * as camera from "./camera.js";
import * as images from "./images.js";
import * as next from "./next.js";
import * as runs from "./runs.js";
import * as suspects from "./suspects.js";
import * as train from "./train.js";
import * as trial from "./trial.js";

const VIEWS = [
  ["images", "Images", images], ["camera", "Camera", camera], ["suspects", "Suspects", suspects], ["training", "Train", train],
  ["trial", "Try", trial], ["runs", "Runs", runs], ["next", "Label next", next],
];

const tabs = VIEWS.map(([id, title]) =>
  element("button", {
    type: "button", role: "tab", id: `tab-${id}`, "aria-controls": id, onclick: () => open(id),
    onkeydown: (event) => {
      const place = tabs.indexOf(event.currentTarget);
      const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: -1 }[event.key];
      if (to === undefined) return;
      event.stopPropagation();
      event.preventDefault();
      tabs.at(to % tabs.length).focus();
    },
  }, title));
part("tabs").append(...tabs);

let shown = "";

/** Shows a step. */
export function open(id) {
  for (const [name, , view] of VIEWS) {
    part(name).hidden = name !== id;
    const tab = part(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === id));
    tab.tabIndex = name === id ? 0 : -1;
    if (name === id) tab.scrollIntoView({ inline: "center", block: "nearest" });
    if (name === shown && name !== id) view.leave?.();
  }
  const before = shown;
  shown = id;
  if (before !== id) VIEWS.find(([name]) => name === id)[2].enter?.();
  history.replaceState(null, "", `#${id}`);
}

addEventListener("keydown", (event) => {
  const onSlider = event.target.matches?.("[type=range]") && /^(Arrow|Home|End|Page)/.test(event.key);
  const typing = onSlider || event.target.matches?.("input:not([type=range]), textarea, select");
  if (typing && event.key === "Escape") event.target.blur();
  if (typing || event.altKey || part("keys").open) return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key === "z") { event.preventDefault(); (event.shiftKey ? images.redo : images.undo)(); }
    return;
  }
  if (event.key === "z") images.undo();
  else if (event.key === "y") images.redo();
  else if (event.key === "?") part("keys").showModal();
  else {
    const onButton = event.target.matches?.("button, a, summary") && [" ", "Enter"].includes(event.key);
    const view = VIEWS.find(([name]) => name === shown)[2];
    if (!onButton && view.pressed?.(event)) event.preventDefault();
    else if (event.key === "Escape" && !part("viewer").open) part(`tab-${shown}`).focus(); // past long lists
  }
});

const asked = location.hash.slice(1);
open(VIEWS.some(([id]) => id === asked) ? asked : "images");
watch();
