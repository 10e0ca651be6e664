// The view of suspects: groups of images to decide on, the most severe first, each decision one key.

import { count, element, fail, guarded, labelName, onState, part, plural, read, redraw, say, send, state } from "./api.js";
import { label } from "./images.js";
import { follow } from "./jobs.js";

const LEFT_OUT = "/left_out";
const TEST = "some images are kept aside to test the model, and a copy among those that it learns from makes the test too easy";
/** What a person should know who does not know the parts of data. */
const WHY = { leak: TEST, leak_drawn: TEST, near_leak: TEST };
let groups = [];
let current = 0;
let shown = false;
let kind = "";
let fromTop = false;

const numbers = (rows) => rows.map(([number, , seen]) => [number, seen]);
const isTest = ([, path]) => /^test/i.test(path);

/** [text, what it does] for each decision on a group. */
function decisions(group) {
  const rows = group.images;
  const fine = ["Fine as it is", () => send("api/fine", { kind: group.kind, image: rows[0][0] })];
  const leaveOut = [rows.length > 1 ? "Leave all out" : "Leave it out", () => label(numbers(rows), LEFT_OUT)];
  if (group.suggested !== null) {
    return [
      [`It is ${group.suggested}`, () => label(numbers(rows), group.suggested)],
      [`It is ${labelName(rows[0][2])}`, fine[1]],
      leaveOut,
    ];
  }
  if (rows.length === 1) return [leaveOut, fine];
  if (group.kind === "conflict") {
    // The same image in several classes: one of each class can stay.
    const names = [...new Set(rows.map(([, , name]) => name))];
    const keep = (name) => rows.find(([, , own]) => own === name);
    return [
      ...names.map((name) => [`It is ${labelName(name)}`, () => label(numbers(rows.filter((row) => row !== keep(name))), LEFT_OUT)]),
      leaveOut, fine,
    ];
  }
  if (group.kind === "near_conflict") {
    const names = [...new Set(rows.map(([, , name]) => name))];
    return [...names.map((name) => [`All are ${labelName(name)}`, () => label(numbers(rows.filter(([, , own]) => own !== name)), name)]), leaveOut, fine];
  }
  const stays = rows.find(isTest) ?? rows[0];
  return [["Keep one", () => label(numbers(rows.filter((row) => row !== stays)), LEFT_OUT)], leaveOut, fine];
}

const decide = guarded(async (place, choice) => {
  const group = groups[place];
  if (!group || !decisions(group)[choice]) return;
  await decisions(group)[choice][1]();
  await refresh();
});

function card(group, place) {
  const images = group.images.map(([number, path, name]) =>
    element("figure", {},
      element("img", { src: `thumbnail/${number}`, alt: path, loading: "lazy", width: 128, height: 128, onerror: ({ target }) => target.remove() }),
      element("figcaption", {}, element("strong", {}, labelName(name)), ` ${path}`)));
  return element("li", { class: `card ${group.severity}`, "aria-current": String(place === current), "data-place": place, onclick: () => mark(place) },
    element("h3", {}, group.title),
    element("div", { class: "row" }, images, group.more ? element("span", { class: "soft" }, `and ${count(group.more)} more`) : null),
    element("p", { class: "soft" }, [group.detail, WHY[group.kind] ?? group.advice.replace(/ \(--.*\)/, "")].filter(Boolean).join(": ")),
    element("div", { class: "buttons" }, decisions(group).map(([text], choice) =>
      element("button", { type: "button", class: choice ? "quiet" : "", onfocus: () => mark(place), onclick: () => decide(place, choice) },
        element("kbd", { "aria-hidden": "true" }, String(choice + 1)), ` ${text}`))));
}

async function refresh() {
  const content = await read("api/suspects");
  const titles = new Map(content.groups.map((group) => [group.kind, group.title]));
  if (!titles.has(kind)) kind = "";
  part("suspects-kind").hidden = titles.size < 2;
  part("suspects-kind").replaceChildren(
    element("option", { value: "" }, "all"),
    ...[...titles].map(([name, title]) => element("option", { value: name, ".selected": name === kind }, `${title} (${count(content.counts[name])})`)));
  groups = kind ? content.groups.filter((group) => group.kind === kind) : content.groups;
  current = Math.max(0, Math.min(current, groups.length - 1));
  const total = Object.values(content.counts).reduce((sum, number) => sum + number, 0);
  part("suspects-count").textContent = content.checked
    ? (total ? `${plural(total, "suspicion")} to decide.` : "Nothing to decide.")
    : "Not checked yet: the check reads every image once.";
  redraw(part("suspects-list"), ...groups.map(card));
  if (fromTop) part("suspects").scrollTop = 0;
  fromTop = false;
}

/** Makes a group the one that the keys decide. */
function mark(place) {
  current = place;
  for (const each of part("suspects-list").children) each.setAttribute("aria-current", String(Number(each.dataset.place) === current));
}

function go(steps) {
  mark(Math.max(0, Math.min(groups.length - 1, current + steps)));
  const card = part("suspects-list").children[current];
  card?.scrollIntoView({ block: "nearest" });
  card?.querySelector("button").focus({ preventScroll: true });
}

export function pressed({ key }) {
  if (key === "ArrowDown" || key === "j") go(1);
  else if (key === "ArrowUp" || key === "k") go(-1);
  else if (/^[1-9]$/.test(key)) decide(current, Number(key) - 1);
  else return false;
  return true;
}

part("suspects-kind").addEventListener("change", guarded(async ({ target }) => {
  show(target.value);
  await refresh();
}));

part("check").addEventListener("click", guarded(async () => {
  const job = await send("api/check");
  say("Checking every image …");
  await follow(job, part("check-progress"));
  say("Checked.");
  await refresh();
}));

let seen = -1;

/** Shows one kind of suspicion, from its beginning. */
export function show(name) {
  kind = name;
  current = 0;
  fromTop = true;
}
export function enter() { shown = true; refresh().catch(fail); }
export function leave() { shown = false; }
onState(() => { if (shown && seen !== state.version) refresh().catch(fail); seen = state.version; });
