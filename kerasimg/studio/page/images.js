// The view of images: classes at the side, the grid, labels by keys, touch and drag.

import { count, element, fail, guarded, labelName, onState, part, plural, say, send, state } from "./api.js";
import { Grid } from "./grid.js";
import { beginning, hint, nothing } from "./hints.js";

const LEFT_OUT = "/left_out";
const grid = new Grid({ opened: look, changed: showSelection, emptied: showEmpty });
let drawn = "";

/** Labels images.  pairs: [number, the label that was seen]. */
export async function label(pairs, name) {
  if (!pairs.length) return;
  const known = pairs.every(([, before]) => before !== undefined);
  const body = { images: pairs.map(([number]) => number), label: name };
  if (known) body.before = pairs.map(([, before]) => before);
  const { changed } = await send("api/labels", body);
  say(`${plural(changed, "image")}: ${labelName(name)}.`);
}

const labelChosen = guarded(async (name) => {
  const viewing = part("viewer").open;
  const pairs = await grid.chosen(viewing);
  if (!viewing) grid.selection.clear();
  try {
    await label(pairs, name);
  } finally {
    await grid.refresh();
    showSelection(grid.selection);
    if (viewing) await look(Math.min(grid.current, grid.total - 1));
  }
});

function choices() {
  return [
    ...state.classes.map(({ name, images }, place) => ({ name, images, key: place < 9 ? String(place + 1) : "" })),
    { name: null, images: state.unlabelled, key: "U" },
    { name: LEFT_OUT, images: state.left_out, key: "X" },
  ];
}

function showClasses() {
  const all = { name: "", title: "All images", images: state.total - state.left_out, key: "" };
  const pressed = grid.filter.label;
  const rows = [all, ...choices()].map(({ name, title, images, key }) => {
    const asked = name === null ? "-" : name;
    return element(
      "li", {},
      element(
        "button",
        {
          type: "button", "aria-pressed": String(pressed === asked), "data-label": asked,
          onclick: guarded(() => { grid.selection.clear(); showSelection(grid.selection); return grid.show({ label: asked }).then(showClasses); }),
          ondragover: (event) => { if (name !== "") { event.preventDefault(); event.currentTarget.classList.add("over"); } },
          ondragleave: (event) => event.currentTarget.classList.remove("over"),
          ondrop: (event) => {
            event.preventDefault();
            event.stopPropagation();
            event.currentTarget.classList.remove("over");
            if (event.dataTransfer.files.length) addFiles(droppedFiles(event), asked);
            else labelChosen(name);
          },
        },
        element("span", {}, key ? element("kbd", { "aria-hidden": "true" }, key) : null, title ?? labelName(name)),
        element("span", { class: "soft" }, count(images)),
      ),
    );
  });
  part("add").textContent = pressed && !"-/".includes(pressed[0]) ? `Add images to ${pressed}` : "Add images";
  const focused = document.activeElement?.dataset?.label;
  part("classes").replaceChildren(...rows);
  if (focused !== undefined) part("classes").querySelector(`[data-label="${CSS.escape(focused)}"]`)?.focus();
}

let reason = "";

/** Why nothing is shown, and what to do. */
function showEmpty(filter) {
  const now = JSON.stringify([filter, state.total, state.path]);
  if (now === reason) return;
  reason = now;
  const first = !state.total && filter.label === "" && !filter.text;
  part("empty").replaceChildren(...(first ? beginning(state.path, chooseFiles) : [nothing(filter)]));
}

function showSelection(selection) {
  part("selected").hidden = !selection.size;
  part("selected-count").textContent = `${count(selection.size)} selected`;
  const names = JSON.stringify(state.classes.map(({ name }) => name));
  if (names === drawn) return;
  drawn = names;
  part("selected-classes").replaceChildren(
    ...choices().map(({ name }) =>
      element("button", { type: "button", class: "quiet", onclick: () => labelChosen(name) }, labelName(name))),
  );
}

function showState() {
  showClasses();
  showSelection(grid.selection);
  part("folder").textContent = state.folder;
  part("undo").disabled = !state.undo;
  part("redo").disabled = !state.redo;
  part("moves").hidden = !state.to_move;
  part("hint").hidden = !state.total;
  if (state.total) part("hint").replaceChildren(...hint(state));
  part("moves-text").textContent = `${plural(state.to_move, "file")} in another folder than the label.`;
  if (grid.version !== state.version) grid.refresh().catch(fail);
  else if (!state.total) grid.schedule();
}

// Images from elsewhere on this machine: chosen, or dropped on a class or on the images

const chooseFiles = () => part("add-files").click();

/** The files that were dropped; null for folders, which a page cannot take as they are. */
function droppedFiles({ dataTransfer }) {
  const isFolder = [...dataTransfer.items].some((item) => item.webkitGetAsEntry?.()?.isDirectory);
  return isFolder ? null : [...dataTransfer.files];
}

const addFiles = guarded(async (files, asked = grid.filter.label) => {
  if (!files) throw new Error(`Folders cannot be dropped here. Put them into ${state.path}, and press “Look for new files”.`);
  const label = asked.startsWith("/") ? "-" : asked || "-";
  const refused = [];
  let added = 0;
  for (const file of files) {
    say(`Adding image ${added + refused.length + 1} of ${count(files.length)} …`);
    try {
      await send(`api/files?${new URLSearchParams({ label, name: file.name })}`, file);
      added += 1;
    } catch (error) {
      refused.push(`${file.name}: ${error.message}`);
    }
  }
  await grid.refresh();
  say(`${plural(added, "image")} added: ${labelName(label === "-" ? null : label)}.`);
  if (refused.length) throw new Error(`${plural(refused.length, "file")} not added: ${refused.slice(0, 3).join(" ")}`);
});

part("add").addEventListener("click", chooseFiles);
part("add-files").addEventListener("change", ({ target }) => {
  const files = [...target.files];
  target.value = "";
  addFiles(files);
});
part("images").addEventListener("dragover", (event) => { if (event.dataTransfer.types.includes("Files")) event.preventDefault(); });
part("images").addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  addFiles(droppedFiles(event));
});

// The viewer

async function look(place) {
  await grid.load(Math.floor(place / 200)).catch(fail); // after End or Home, its row is not here yet
  const row = grid.row(place);
  if (!row) {
    part("viewer").close();
    return;
  }
  grid.current = place;
  part("viewer-image").src = `image/${row[0]}`;
  part("viewer-image").alt = row[1];
  part("viewer-name").textContent = row[1];
  part("viewer-label").textContent = labelName(row[2]);
  if (!part("viewer").open) part("viewer").showModal();
  grid.redraw();
}

function lookNext(steps) {
  grid.go(steps, false);
  look(grid.current);
}

part("viewer-close").addEventListener("click", () => part("viewer").close());
part("viewer-next").addEventListener("click", () => lookNext(1));
part("viewer-previous").addEventListener("click", () => lookNext(-1));
part("show-keys").addEventListener("click", () => part("keys").showModal());
part("keys-close").addEventListener("click", () => part("keys").close());

// Controls

const change = (path, text) => guarded(async () => {
  const result = await send(path);
  await grid.refresh();
  say(text(result));
});

export const undo = change("api/undo", ({ changed }) => `Undone: ${plural(changed, "image")}.`);
export const redo = change("api/redo", ({ changed }) => `Done again: ${plural(changed, "image")}.`);
part("undo").addEventListener("click", undo);
part("redo").addEventListener("click", redo);
part("rescan").addEventListener("click", change("api/rescan", (result) => `${plural(result.new, "new image")}.`));
part("move").addEventListener("click", guarded(async () => {
  const one = `Move ${plural(state.to_move, "file")} into the folders of their labels?`;
  if (!confirm(one)) return;
  const { moved } = await send("api/moves");
  await grid.refresh();
  say(`${plural(moved, "file")} moved.`);
}));
part("clear").addEventListener("click", () => grid.clear());
part("select-all").addEventListener("click", guarded(() => grid.selectAll()));
part("size").addEventListener("input", ({ target }) => { grid.size = Number(target.value); grid.layout(); });
part("new-class").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  const { name } = await send("api/classes", { name: part("class-name").value });
  part("class-name").value = "";
  if (grid.selection.size) return labelChosen(name);
  if (!state.unlabelled) await grid.show({ label: name }); // there is nothing to label, so images are added next
  showClasses();
  return say(`New class: ${name}.`);
}));

let typing = 0;
part("search").addEventListener("input", ({ target }) => {
  clearTimeout(typing);
  typing = setTimeout(() => grid.show({ text: target.value }).catch(fail), 150);
});

const STEPS = {
  ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: () => grid.columns, ArrowUp: () => -grid.columns,
  PageDown: () => grid.columns * Math.max(1, Math.floor(grid.box.clientHeight / (grid.side + 20))),
  PageUp: () => -grid.columns * Math.max(1, Math.floor(grid.box.clientHeight / (grid.side + 20))),
  Home: () => -grid.total, End: () => grid.total,
};

/** Handles a key; returns whether it means something here. */
export function pressed(event) {
  const { key } = event;
  const viewing = part("viewer").open;
  if (viewing && (key === "ArrowRight" || key === "ArrowLeft")) lookNext(key === "ArrowRight" ? 1 : -1);
  else if (viewing && !/^[1-9ux]$/.test(key)) return false;
  else if (key in STEPS) grid.go(STEPS[key](), event.shiftKey);
  else if (key === " ") { grid.toggle(grid.current); grid.redraw(); }
  else if (key === "Enter" && event.target === grid.box) look(grid.current);
  else if (key === "Escape" && grid.selection.size) grid.clear();
  else if (key === "a") guarded(() => grid.selectAll())();
  else if (key === "u") labelChosen(null);
  else if (key === "x") labelChosen(LEFT_OUT);
  else if (key === "/") part("search").focus();
  else if (/^[1-9]$/.test(key) && state.classes[key - 1]) labelChosen(state.classes[key - 1].name);
  else return false;
  return true;
}

onState(showState);
grid.refresh().catch(fail);
