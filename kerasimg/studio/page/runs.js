// The view of runs: scores, report, comparison, export with the table of its gate.

import { count, element, fail, guarded, part, plural, read, redraw, say, send } from "./api.js";
import { follow, percent, resultOf } from "./jobs.js";
import * as suspects from "./suspects.js";

const path = (name, more) => `api/runs/${encodeURIComponent(name)}/${more}`;
const score = (run) => run.value === undefined ? "" : `${percent(run.value)}${run.interval ? ` (${percent(run.interval[0])} to ${percent(run.interval[1])})` : ""}`;

const showReport = (name) => {
  part("report").src = `runs/${encodeURIComponent(name)}/report`;
  part("report").hidden = false;
  part("report").scrollIntoView({ block: "start" });
};

const exportRun = guarded(async (name, target, trainable = false) => {
  say(`Exporting ${name} …`);
  const job = await send(path(name, "export"), { target, trainable });
  const ended = await follow(job, part("runs-progress")).catch((error) => ({ error }));
  const rows = await resultOf(job).catch(() => []);
  if (rows.length) showGate(name, target, rows);
  await refresh();
  if (ended.error) throw ended.error;
  say(ended.state === "cancelled" ? "Cancelled." : `Exported to ${rows[0]?.bundle ?? target}.`);
});

/** The comparison of each exported file with the trained model, and what was allowed. */
function showGate(name, target, rows) {
  const passed = rows.every((row) => row.passed);
  const difference = (value) => (value === null ? "not finite" : value.toExponential(1));
  const accuracy = (row) => (row.accuracy_before === null ? "" : `${percent(row.accuracy_before)} → ${percent(row.accuracy_after)}`);
  part("runs-result").replaceChildren(
    element("h3", {}, `${name} for ${target}: ${passed ? "gives the same answers as the trained model" : "differs too much from the trained model"}`),
    table(["file", "gate", "images", "same decision (required)", "largest difference (allowed)", "accuracy", "size", "time of an image", "runtime"],
      rows.map((row) => [
        row.path, row.passed ? "passed" : "not passed", count(row.images),
        `${percent(row.same_decision)} (${percent(row.tolerance.decided)})`,
        `${difference(row.greatest_difference)} (${row.tolerance.difference})`,
        accuracy(row), `${(row.bytes / 1e6).toFixed(2)} MB`, `${row.p50_ms.toFixed(1)} ms`, row.runtime,
      ])));
}

const compare = guarded(async (first, second) => {
  say(`Comparing ${first} with ${second} …`);
  const result = await resultOf(await follow(await send(`${path(first, "compare")}?${new URLSearchParams({ other: second })}`), part("runs-progress")));
  const changes = result.against_first[0].differences;
  const change = ({ difference, interval } = { difference: 0 }) =>
    `${difference.toFixed(3)}${interval ? ` (${interval[0].toFixed(3)} to ${interval[1].toFixed(3)})` : ""}`;
  part("runs-result").replaceChildren(
    element("h3", {}, `${first} and ${second}, on the same ${count(result.n)} images`),
    table(["measure", first, second, "difference (95 % interval)"],
      Object.entries(result.figures).map(([name, pair]) => [name.replaceAll("_", " "), ...pair.map((value) => value?.toFixed(3) ?? ""), change(changes[name])])));
  say("");
});

function showSuspects(kind) {
  suspects.show(kind);
  part("tab-suspects").click();
  say("Done: they are among the suspects.");
}

const findErrors = guarded(async (name) => {
  say("Looking for wrong labels among the held-out images …");
  await follow(await send(path(name, "label-errors")), part("runs-progress"));
  showSuspects("label_error");
});

const findForeign = guarded(async (run) => {
  if (!run.knows) {
    say("Learning what an image must be like …");
    await follow(await send(path(run.name, "known")), part("runs-progress"));
  }
  say("Looking for images unlike those that the model was trained on …");
  await follow(await send(path(run.name, "unknown")), part("runs-progress"));
  showSuspects("unknown");
});

function table(titles, rows) {
  return element("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "The table" }, element("table", {},
    element("thead", {}, element("tr", {}, titles.map((title) => element("th", { scope: "col" }, title)))),
    element("tbody", {}, rows.map((row) => element("tr", {}, row.map((cell) => element("td", {}, cell)))))));
}

async function refresh() {
  const runs = await read("api/runs");
  part("runs-none").hidden = runs.length > 0;
  const finished = runs.filter((run) => run.finished);
  redraw(part("runs-list"), ...runs.map((run) => element("li", { class: "card" },
    element("h3", {}, run.name),
    element("p", {}, run.finished ? `${run.measure ?? ""} ${score(run)} on ${count(run.n ?? 0)} held-out images, trained on ${count(run.trained_on)}` : run.running ? "is training" : "has not finished: resume it under Train"),
    run.finished ? element("div", { class: "buttons" },
      run.report ? element("button", { type: "button", class: "quiet", onclick: () => showReport(run.name) }, "Report") : null,
      element("button", { type: "button", class: "quiet", onclick: () => exportRun(run.name, "web") }, "Make the web page"),
      element("button", { type: "button", class: "quiet", onclick: () => exportRun(run.name, "web", true) }, "Make a web page that learns"),
      run.page ? element("a", { class: "button", href: `runs/${encodeURIComponent(run.name)}/page`, download: `${run.name}.html` }, "Download the web page") : null,
      element("button", { type: "button", class: "quiet", onclick: () => exportRun(run.name, "litert") }, "Export for phones"),
      element("button", { type: "button", class: "quiet", onclick: () => findErrors(run.name) }, "Find wrong labels"),
      element("button", { type: "button", class: "quiet", onclick: () => findForeign(run) }, "Find foreign images"),
      finished.length > 1 ? element("span", { class: "together" },
        element("button", { type: "button", class: "quiet", onclick: ({ target }) => compare(run.name, target.nextSibling.value) }, "Compare with"),
        element("select", { "aria-label": `Compare ${run.name} with` },
          finished.filter((other) => other !== run).map((other) => element("option", { value: other.name }, other.name)))) : null) : null)));
}

export function enter() { refresh().catch(fail); }
