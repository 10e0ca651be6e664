// Commands that run beside the page: their progress, their end, and the choice of a run.

import { element, part, read, send } from "./api.js";

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Shows the last line of a job until it ends; its error is thrown. */
export async function follow(job, place, shown = () => {}) {
  const line = element("span", { class: "soft" });
  const cancel = element("button", { type: "button", class: "quiet", onclick: () => send(`api/jobs/${job.number}/cancel`) }, "Cancel");
  place.replaceChildren(line, cancel);
  for (;;) {
    const now = await read(`api/jobs/${job.number}`);
    line.textContent = `${now.lines.at(-1) ?? now.command} · ${Math.round(now.seconds)} s `;
    await shown(now);
    if (now.state !== "running") {
      place.replaceChildren();
      // A check that found something to mend ends with its own code; its result is there all the same.
      if (now.state === "failed" && now.kind !== "check") throw new Error(now.failure ?? "it failed");
      return now;
    }
    await sleep(700);
  }
}

/** The result of a job that has ended. */
export const resultOf = (job) => read(`api/jobs/${job.number}/result`);

/** The finished runs, and the select element of a view filled with them. */
export async function fillRuns(select) {
  const runs = (await read("api/runs")).filter((run) => run.finished);
  const before = select.value;
  select.replaceChildren(...runs.map((run) => element("option", { value: run.name }, `${run.name}${run.value === undefined ? "" : ` (${percent(run.value)})`}`)));
  if (runs.some((run) => run.name === before)) select.value = before;
  return runs;
}

export const percent = (value) => `${(100 * value).toFixed(1)} %`;

export function minutes(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return `${Math.round(seconds / 60)} min`;
}

export const need = (runs, id) => { part(id).hidden = runs.length > 0; return runs.length > 0; };
