// Curves of a training, as SVG.

const SPACE = "http://www.w3.org/2000/svg";
const [HEIGHT, LEFT, BOTTOM, TOP] = [220, 62, 28, 26];
const NARROWEST = 260;
/** The measure that is drawn: the first of these. */
const RATES = ["accuracy", "subset_accuracy", "macro_f1", "f1", "auc"];
const NOT_DRAWN = new Set(["stage", "epoch", "seconds", "learning_rate"]);

function svg(name, attributes, text) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Draws the losses and the measure of a run's epochs into an element. */
export function curves(place, rows) {
  const keys = rows.length ? Object.keys(rows.at(-1)).filter((key) => !NOT_DRAWN.has(key)) : [];
  const losses = keys.filter((key) => /^(val_)?loss$/.test(key));
  const rate = RATES.find((name) => keys.includes(name));
  const rates = keys.filter((key) => rate && key.replace("val_", "") === rate);
  const shown = [losses, rates].filter((some) => some.length);
  // In pixels of the screen, so that the text has the same size at every width.
  const width = Math.max(NARROWEST, place.clientWidth < 2 * 320 + 16 ? place.clientWidth : (place.clientWidth - 16) / 2);
  place.replaceChildren(...shown.map((some) => chart(rows, some, Math.round(width))));
}

const short = (value) => (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(0) : value.toPrecision(3));

function chart(rows, keys, width) {
  const values = keys.flatMap((key) => rows.map((row) => row[key])).filter(Number.isFinite);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const span = high - low || 1;
  const x = (place) => LEFT + (rows.length < 2 ? 0.5 : place / (rows.length - 1)) * (width - LEFT - 12);
  const y = (value) => TOP + (1 - (value - low) / span) * (HEIGHT - TOP - BOTTOM);
  const last = keys.map((key) => `${key} ${rows.at(-1)[key]?.toPrecision(3)}`).join(", ");
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `After ${rows.length} epochs: ${last}` });
  for (const value of [low, low + span / 2, high]) {
    drawn.append(svg("line", { class: "grid", x1: LEFT, x2: width - 12, y1: y(value), y2: y(value) }));
    drawn.append(svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  drawn.append(svg("text", { x: LEFT, y: HEIGHT - 6 }, "epoch 1"), svg("text", { x: width - 12, y: HEIGHT - 6, "text-anchor": "end" }, String(rows.length)));
  keys.forEach((key, place) => {
    const points = rows.map((row, index) => [index, row[key]]).filter(([, value]) => Number.isFinite(value));
    const kind = key.startsWith("val_") ? "second" : "first";
    drawn.append(svg("polyline", { class: `curve ${kind}`, points: points.map(([index, value]) => `${x(index)},${y(value)}`).join(" ") }));
    if (points.length === 1) drawn.append(svg("circle", { class: kind, cx: x(0), cy: y(points[0][1]), r: 4 }));
    drawn.append(svg("text", { class: kind, x: LEFT + place * 100, y: 16 }, key.startsWith("val_") ? `validation ${key.slice(4)}` : key));
  });
  return drawn;
}
