// The view of training: a recipe, the spec as a file to edit, live curves, cancel and resume.

import { element, fail, guarded, part, plural, read, say, send, state } from "./api.js";
import { follow, minutes, percent } from "./jobs.js";
import { curves } from "./chart.js";

const RESTING_MS = 400;
/** The promise of the names that a spec may have, once they are needed. */
let schema = null;
let following = false;

async function showSpec({ text, file }) {
  part("spec-file").textContent = file;
  part("spec").value = text ?? "";
  part("recipe-none").textContent = text ? "as the spec below says" : "chosen by looking at the images";
}

/** Whether the spec was edited here since a recipe wrote it; then it is not replaced unasked. */
let edited = false;

const useRecipe = guarded(async (select) => {
  if (!select.value) return;
  if (edited && !confirm("Replace the spec that you have edited by that of the recipe?")) {
    select.value = "";
    return;
  }
  say("Looking at the images …");
  await showSpec(await send(`api/recipes/${select.value}`));
  edited = false;
  showFaults(await send("api/spec", { text: part("spec").value }));
  say(`The spec is that of ${select.selectedOptions[0].textContent}.`);
});

// Arrow keys pass several recipes on their way to one: it counts when they rest.
let choosing = 0;
let chosen = Promise.resolve();
part("recipe").addEventListener("change", ({ target }) => {
  clearTimeout(choosing);
  chosen = new Promise((done) => { choosing = setTimeout(() => done(useRecipe(target)), RESTING_MS); });
});

function showFaults({ ok, faults, warnings }) {
  part("spec-faults").replaceChildren(
    ...faults.map(({ place, message }) => element("li", { class: "error" }, place ? element("strong", {}, `${place}: `) : null, message)),
    ...warnings.map((message) => element("li", {}, message)),
    ...(ok ? [element("li", { class: "good" }, "The spec is valid.")] : []));
  return ok;
}

const check = guarded(async () => showFaults(await send("api/spec", { text: part("spec").value })));
part("spec-check").addEventListener("click", check);
let typing = 0;
part("spec").addEventListener("input", () => {
  edited = true;
  clearTimeout(typing);
  typing = setTimeout(check, 600);
  complete();
});

// Completion: names of the schema that begin with what is before the cursor

async function complete() {
  schema ??= read("api/schema");
  const names = await schema;
  const box = part("spec");
  const begun = /"([\w$.-]{2,})$/.exec(box.value.slice(0, box.selectionStart))?.[1] ?? "";
  const fitting = begun ? Object.keys(names).filter((name) => name.startsWith(begun) && name !== begun).slice(0, 8) : [];
  part("completions").hidden = !fitting.length;
  part("completions").replaceChildren(...fitting.map((name) =>
    element("li", {}, element("button", { type: "button", class: "link", onclick: () => insert(begun, name) }, name), ` ${names[name]}`)));
}

function insert(begun, name) {
  const box = part("spec");
  const at = box.selectionStart;
  const closed = box.value[at] === '"';
  box.setRangeText(name + (closed ? "" : '"'), at - begun.length, at, "end");
  if (closed) box.selectionStart = box.selectionEnd += 1;
  part("completions").hidden = true;
  box.focus();
  check();
}

part("spec").addEventListener("keydown", (event) => {
  const first = part("completions").querySelector("button");
  if (event.key === "Tab" && !part("completions").hidden && first) { event.preventDefault(); first.click(); }
  if (event.key === "Escape") part("completions").hidden = true;
});

// Training

async function watch(job) {
  following = true;
  const focused = document.activeElement;
  part("train").disabled = part("auto").disabled = true;
  try {
    const ended = await follow(job, part("train-progress"), async (now) => { if (now.run) await showRun(now.run); });
    say(ended.state === "done" ? "Trained. Try it, or look at its report under Runs." : "Cancelled. It can be resumed.");
  } finally {
    following = false;
    part("train").disabled = part("auto").disabled = false;
    if (document.activeElement === document.body && !part("training").hidden) focused.focus();
    await showUnfinished();
  }
}

/** Shows a training that a studio before this one began, until it ends. */
async function watchOther(name) {
  following = true;
  try {
    while ((await read(`api/runs/${encodeURIComponent(name)}`)).running) {
      await showRun(name);
      await new Promise((done) => setTimeout(done, 2000));
    }
    await showRun(name);
  } finally {
    following = false;
  }
}

async function showRun(name) {
  const run = await read(`api/runs/${encodeURIComponent(name)}`);
  const epoch = run.rows.length;
  const left = run.running && run.seconds_left !== null ? `, at most ${minutes(run.seconds_left)} left` : "";
  part("train-run").textContent = `${run.name}: epoch ${epoch} of at most ${run.planned}${left}${run.value === undefined ? "" : `; ${run.measure} ${percent(run.value)} on ${plural(run.n, "held-out image")}`}`;
  curves(part("train-chart"), run.rows);
}

part("train").addEventListener("click", guarded(async () => {
  await chosen;
  if (part("spec").value && !showFaults(await send("api/spec", { text: part("spec").value }))) throw new Error("The spec has errors; they are listed below it.");
  const epochs = Number(part("epochs").value) || null;
  say("Training …");
  await watch(await send("api/train", { epochs }));
}));

part("auto").addEventListener("click", guarded(async () => {
  say("Searching for the best model …");
  await watch(await send("api/auto", { minutes: Number(part("minutes").value) }));
}));

async function showUnfinished() {
  const open = (await read("api/runs")).filter((run) => !run.finished && !run.running);
  part("unfinished").replaceChildren(...open.map((run) =>
    element("li", {}, `${run.name} has not finished. `,
      element("button", { type: "button", class: "quiet", onclick: guarded(async () => watch(await send(`api/runs/${encodeURIComponent(run.name)}/resume`))) }, "Resume"))));
}

export async function enter() {
  try {
    if (part("recipe").options.length < 2) {
      const recipes = await read("api/recipes");
      part("recipe").append(...recipes.map(({ name, about }) => element("option", { value: name }, `${name}: ${about}`)));
    }
    await showSpec(await read("api/spec"));
    const used = state.classes.filter(({ images }) => images);
    const empty = state.classes.filter(({ images }) => !images).map(({ name }) => name);
    const labelled = used.reduce((sum, { images }) => sum + images, 0);
    part("train-images").textContent = `${plural(labelled, "labelled image")} of ${used.length} ${used.length === 1 ? "class" : "classes"}.`
      + (empty.length ? ` Without images, and so not learned: ${empty.join(", ")}.` : "");
    await showUnfinished();
    const running = (await read("api/jobs")).find((job) => job.kind === "train" && job.state === "running");
    const other = running ? null : (await read("api/runs")).find((run) => run.running);
    if (running && !following) watch(running).catch(fail);
    else if (other && !following) watchOther(other.name).then(showUnfinished).catch(fail);
  } catch (error) {
    fail(error);
  }
}
