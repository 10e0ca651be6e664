// A virtual grid: only the images in view exist as elements, and only pages near them as rows.

import { part, read, labelName, count } from "./api.js";

const PAGE = 200;
const PAGES = 24;
const CAPTION_PX = 20;
/** After a scroll past what was in view, images are asked for only when nothing has moved for this long. */
const SETTLED_MS = 100;

export class Grid {
  /** opened: called with a place that was opened.  changed: when the selection changes.  emptied: when nothing is shown. */
  constructor({ opened, changed, emptied }) {
    this.box = part("grid");
    this.sheet = part("sheet");
    this.opened = opened;
    this.changed = changed;
    this.emptied = emptied;
    this.filter = { label: "", text: "", status: "all" };
    this.total = 0;
    this.version = -1;
    this.pages = new Map();
    /** page -> the promise of its rows */
    this.asked = new Map();
    this.cells = new Map();
    /** Elements that are out of view, to use again. */
    this.spare = [];
    this.flying = false;
    this.drawnTop = 0;
    /** number of an image -> its label when it was selected */
    this.selection = new Map();
    this.current = 0;
    this.anchor = 0;
    this.size = 128;
    this.box.addEventListener("scroll", () => this.schedule(), { passive: true });
    new ResizeObserver(() => this.layout()).observe(this.box);
    this.box.addEventListener("click", (event) => this.clicked(event));
    this.box.addEventListener("dblclick", (event) => this.placeOf(event) !== null && this.opened(this.placeOf(event)));
    this.box.addEventListener("dragstart", (event) => this.dragged(event));
  }

  /** Shows the images of a filter from their beginning. */
  async show(filter) {
    this.filter = { ...this.filter, ...filter };
    this.box.scrollTop = 0;
    this.current = this.anchor = 0;
    await this.refresh();
  }

  /** Reads again what is in view. */
  async refresh() {
    this.pages.clear();
    this.asked = new Map();
    await this.load(Math.floor(this.firstPlace() / PAGE));
    this.layout();
  }

  address(path, more) {
    const { label, text, status } = this.filter;
    return `${path}?${new URLSearchParams({ label, text, status, ...more })}`;
  }

  /** Loads a page of rows, once. */
  load(page) {
    if (page < 0 || this.pages.has(page)) return Promise.resolve();
    if (!this.asked.has(page)) this.asked.set(page, this.ask(page, this.asked));
    return this.asked.get(page);
  }

  async ask(page, asked) {
    let content;
    try {
      content = await read(this.address("api/images", { start: page * PAGE, count: PAGE }));
    } finally {
      asked.delete(page);
    }
    if (asked !== this.asked) return; // the filter or the labels have changed meanwhile
    this.version = content.version;
    this.total = content.total;
    this.pages.set(page, content.rows);
    const middle = Math.floor(this.firstPlace() / PAGE);
    for (const held of [...this.pages.keys()].sort((a, b) => Math.abs(b - middle) - Math.abs(a - middle))) {
      if (this.pages.size <= PAGES) break;
      this.pages.delete(held);
    }
    if (this.shownTotal === this.total) this.schedule();
    else this.layout();
  }

  /** [number, path, label] of a place; undefined if it is not loaded. */
  row(place) {
    return this.pages.get(Math.floor(place / PAGE))?.[place % PAGE];
  }

  firstPlace() {
    return Math.floor(this.box.scrollTop / (this.side + CAPTION_PX || 1)) * (this.columns || 1);
  }

  layout() {
    const width = this.box.clientWidth;
    if (!width) return;
    this.height = this.box.clientHeight; // read here only: after a change of the page it costs a layout
    this.shownTotal = this.total;
    this.columns = Math.max(2, Math.floor(width / this.size));
    this.side = Math.floor(width / this.columns);
    this.sheet.style.height = `${Math.ceil(this.total / this.columns) * (this.side + CAPTION_PX)}px`;
    part("count").textContent = `${count(this.total)} image${this.total === 1 ? "" : "s"}`;
    this.draw();
  }

  schedule() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const height = this.side + CAPTION_PX;
    const top = this.box.scrollTop;
    if (Math.abs(top - this.drawnTop) > this.height) this.fly();
    this.drawnTop = top;
    const from = Math.max(0, Math.floor((top - this.height / 2) / height)) * this.columns;
    const rows = Math.ceil((this.height * 2) / height) + 1;
    const to = Math.min(this.total, from + rows * this.columns);
    for (const [place, cell] of this.cells) {
      if (place < from || place >= to) {
        this.cells.delete(place);
        this.spare.push(cell);
      }
    }
    for (let place = from; place < to; place++) this.cell(place);
    for (const cell of this.spare.splice(0)) cell.remove();
    if (this.cells.has(this.current)) this.box.setAttribute("aria-activedescendant", `cell-${this.current}`);
    else this.box.removeAttribute("aria-activedescendant");
    if (!this.flying) for (let page = Math.floor(from / PAGE); page * PAGE < to; page++) this.load(page).catch(() => {});
    part("empty").hidden = this.total > 0 || this.version < 0;
    if (!part("empty").hidden) this.emptied(this.filter);
  }

  /** Begins to pass images without asking for them; thousands of requests that nobody sees stop the page. */
  fly() {
    this.flying = true;
    clearTimeout(this.landing);
    this.landing = setTimeout(() => {
      this.flying = false;
      this.draw();
    }, SETTLED_MS);
  }

  /** An element for a place: one that is out of view, or a new one. */
  freeCell(place) {
    let cell = this.spare.pop();
    if (cell) {
      cell.firstChild.removeAttribute("src");
      cell.lastChild.textContent = cell.title = "";
      cell.removeAttribute("aria-selected");
      cell.removeAttribute("aria-label");
      delete cell.dataset.number;
      delete cell.dataset.shown;
    } else {
      cell = document.createElement("div");
      cell.setAttribute("role", "option");
      cell.draggable = true;
      cell.append(document.createElement("img"), document.createElement("span"));
      cell.firstChild.draggable = false;
      cell.firstChild.decoding = "async";
      cell.firstChild.onerror = () => {
        cell.classList.add("unreadable");
        cell.firstChild.removeAttribute("src"); // without the browser's own sign of a broken image
        cell.lastChild.textContent = "cannot be read";
      };
      cell.lastChild.className = "name";
      this.sheet.append(cell);
    }
    cell.className = "cell";
    cell.id = `cell-${place}`;
    this.cells.set(place, cell);
    return cell;
  }

  cell(place) {
    const cell = this.cells.get(place) ?? this.freeCell(place);
    const row = this.row(place);
    const waits = this.flying && cell.dataset.number === undefined;
    const key = [place, this.side, this.columns, this.total, this.filter.label, place === this.current, row?.[0], row?.[2],
      row && this.selection.has(row[0]), waits].join("/");
    if (cell.drawn === key) return cell; // most cells are as in the last frame
    cell.drawn = key;
    const x = (place % this.columns) * this.side;
    const y = Math.floor(place / this.columns) * (this.side + CAPTION_PX);
    cell.style.width = `${this.side}px`;
    cell.style.height = `${this.side + CAPTION_PX}px`;
    cell.style.transform = `translate(${x}px, ${y}px)`;
    cell.classList.toggle("current", place === this.current);
    cell.setAttribute("aria-posinset", place + 1);
    cell.setAttribute("aria-setsize", this.total);
    if (!row || waits) return cell;
    const [number, path, label] = row;
    cell.setAttribute("aria-selected", this.selection.has(number));
    const shown = `${number}/${label}/${this.filter.label}`;
    if (cell.dataset.shown !== shown) {
      if (cell.dataset.number !== String(number)) {
        cell.classList.remove("unreadable");
        cell.firstChild.src = `thumbnail/${number}`;
      }
      cell.dataset.number = number;
      cell.dataset.shown = shown;
      cell.firstChild.alt = "";
      cell.lastChild.textContent = this.filter.label === "" ? labelName(label) : path.split("/").pop();
      cell.title = path;
      cell.setAttribute("aria-label", `${path.split("/").pop()}, ${labelName(label)}`);
    }
    return cell;
  }

  placeOf(event) {
    const cell = event.target.closest?.(".cell");
    return cell ? Number(cell.id.slice(5)) : null;
  }

  clicked(event) {
    const place = this.placeOf(event);
    if (place === null) return;
    const touch = matchMedia("(pointer: coarse)").matches;
    if (event.shiftKey) this.selectTo(place);
    else if (event.ctrlKey || event.metaKey || touch) this.toggle(place);
    else {
      this.selection.clear();
      this.toggle(place);
    }
    this.current = place;
    if (!event.shiftKey) this.anchor = place;
    this.redraw();
  }

  toggle(place) {
    const row = this.row(place);
    if (!row) return;
    if (!this.selection.delete(row[0])) this.selection.set(row[0], row[2]);
  }

  /** Selects everything between the anchor and a place. */
  async selectTo(place) {
    const [from, to] = [Math.min(this.anchor, place), Math.max(this.anchor, place)];
    for (let page = Math.floor(from / PAGE); page * PAGE <= to; page++) await this.load(page);
    for (let index = from; index <= to; index++) {
      const row = this.row(index);
      if (row) this.selection.set(row[0], row[2]);
    }
    this.redraw();
  }

  async selectAll() {
    const numbers = await read(this.address("api/numbers", {}));
    this.selection = new Map(numbers.map((number) => [number, undefined]));
    this.redraw();
  }

  clear() {
    this.selection.clear();
    this.redraw();
  }

  redraw() {
    this.draw();
    this.changed(this.selection);
  }

  /** The selected images with the labels that were seen, or else the current one; or that one `alone`. */
  async chosen(alone) {
    if (this.selection.size && !alone) return [...this.selection];
    await this.load(Math.floor(this.current / PAGE)); // after End, its row is not here yet
    const row = this.row(this.current);
    return row ? [[row[0], row[2]]] : [];
  }

  /** Goes by a number of places; with `selecting`, everything on the way is selected. */
  go(steps, selecting) {
    this.current = Math.min(Math.max(0, this.current + steps), Math.max(0, this.total - 1));
    const height = this.side + CAPTION_PX;
    const top = Math.floor(this.current / this.columns) * height;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + height > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + height - this.box.clientHeight;
    if (selecting) this.selectTo(this.current);
    else this.anchor = this.current;
    this.redraw();
  }

  dragged(event) {
    const place = this.placeOf(event);
    if (place === null || !this.row(place)) return;
    if (!this.selection.has(this.row(place)[0])) {
      this.selection.clear();
      this.toggle(place);
      this.redraw();
    }
    event.dataTransfer.setData("text/x-images", "selected");
    event.dataTransfer.effectAllowed = "move";
  }
}
