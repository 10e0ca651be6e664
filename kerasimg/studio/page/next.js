// The view of what to label next: unlabelled images that the model is unsure of and that differ from each other.

import { count, element, fail, guarded, labelName, part, read, redraw, say, state } from "./api.js";
import { label } from "./images.js";
import { fillRuns, need, percent } from "./jobs.js";

let waiting = [];

const suggest = guarded(async () => {
  say("Asking the model about the images without a label …");
  const answer = await read(`api/runs/${encodeURIComponent(part("next-run").value)}/next`);
  waiting = answer.images;
  say(answer.unlabelled ? `${count(waiting.length)} of ${count(answer.unlabelled)} images without a label.`
    : `Every image has a label. Put new ones into ${state.path}/unlabelled, and press “Look for new files” under Images.`);
  draw();
});

const decide = guarded(async (entry, name) => {
  await label([[entry.image[0], entry.image[2]]], name);
  waiting = waiting.filter((each) => each !== entry);
  draw();
});

function draw() {
  redraw(part("next-list"), ...waiting.map((entry, place) => element("li", { class: "card", "aria-current": String(place === 0) },
    element("figure", {}, element("img", { src: `thumbnail/${entry.image[0]}`, alt: entry.image[1], width: 128, height: 128 }),
      element("figcaption", {}, `most likely ${labelName(entry.likely)}, margin ${entry.margin.toFixed(2)}`)),
    element("div", { class: "buttons" }, state.classes.map(({ name }, key) =>
      element("button", { type: "button", class: name === entry.likely ? "" : "quiet", onclick: () => decide(entry, name) },
        key < 9 ? element("kbd", { "aria-hidden": "true" }, `${key + 1} `) : null, name))))));
}

async function showGain(runs) {
  const rounds = runs.filter((run) => run.value !== undefined).reverse();
  part("next-gain").replaceChildren(...rounds.map((run, place) => {
    const before = rounds[place - 1];
    const gain = before ? `${run.value >= before.value ? "+" : ""}${(100 * (run.value - before.value)).toFixed(1)} points` : "";
    return element("tr", {}, [run.name, count(run.trained_on), percent(run.value), run.interval ? `${percent(run.interval[0])} to ${percent(run.interval[1])}` : "", gain].map((cell) => element("td", {}, cell)));
  }));
  part("next-rounds").hidden = !rounds.length;
}

part("next-ask").addEventListener("click", suggest);

export function pressed({ key }) {
  if (!/^[1-9]$/.test(key) || !waiting.length || !state.classes[key - 1]) return false;
  decide(waiting[0], state.classes[key - 1].name);
  return true;
}

export function enter() {
  fillRuns(part("next-run")).then((runs) => {
    part("next-work").hidden = !need(runs, "next-none");
    return showGain(runs);
  }).catch(fail);
}
