// Learns classes from features by ridge regression, step by step like `fit_head` in kerasimg/deploy/learning.py, which
// fits the same head to the JSON that is saved here.

const PENALTY = 0.01;
const SHARPNESS = [1, 20];
const USUAL_SHARPNESS = 10;
const HALVINGS = 50;
/** Images that can be added; the time of a fit grows with the third power of their number. */
const MOST_ADDED = 1000;

export class Learner {
  /** examples: the content of `examples.json`, or of a file that was saved. */
  constructor(examples) {
    this.origin = examples;
    this.head = null;
    this.set(examples);
  }

  /** Begins from the content of a saved file; throws an Error if it is of another model. */
  set({ classes, labels, features, weights, width }) {
    if (weights !== this.origin.weights || width !== this.origin.width) throw new Error("was saved by a page of another model");
    const values = unpackedFloats(features);
    this.classes = [...classes];
    this.labels = [...labels];
    this.rows = labels.map((_, place) => values.subarray(place * width, (place + 1) * width));
    this.head = null;
  }

  /** The number of examples of each class, by name. */
  get counts() {
    return new Map(this.classes.map((name, number) => [name, this.labels.filter((label) => label === number).length]));
  }

  /** Whether there is more than what the page brings. */
  get taught() {
    return this.labels.length > this.origin.labels.length;
  }

  /** Adds an example.  features: Float32Array. */
  add(name, features) {
    if (this.labels.length - this.origin.labels.length >= MOST_ADDED) throw new Error(`there are ${MOST_ADDED} examples already`);
    if (!this.classes.includes(name)) this.classes.push(name);
    this.labels.push(this.classes.indexOf(name));
    this.rows.push(Float32Array.from(features));
    this.head = null;
  }

  /** Removes the examples of a class that were added, and the class if it has none left. */
  forget(name) {
    const number = this.classes.indexOf(name);
    const brought = this.origin.labels.length;
    const stays = this.labels.map((label, place) => place < brought || label !== number);
    this.rows = this.rows.filter((_, place) => stays[place]);
    this.labels = this.labels.filter((_, place) => stays[place]);
    if (!this.labels.includes(number)) {
      this.classes.splice(number, 1);
      this.labels = this.labels.map((label) => (label > number ? label - 1 : label));
    }
    this.head = null;
  }

  /** Whether a head can be fitted: two classes, and something new. */
  get ready() {
    return this.taught && this.classes.length > 1;
  }

  /** Fits the head to the examples, if they have changed. */
  fit() {
    this.head ??= fitHead(this.rows, this.labels, this.classes.length);
  }

  /** The probabilities of the classes.  features: of an image. */
  probabilities(features) {
    this.fit();
    const { kernel, bias } = this.head;
    const count = this.classes.length;
    const logits = Array.from(bias);
    for (let feature = 0; feature < features.length; feature++) {
      for (let k = 0; k < count; k++) logits[k] += features[feature] * kernel[feature * count + k];
    }
    const most = Math.max(...logits);
    const powers = logits.map((logit) => Math.exp(logit - most));
    const sum = powers.reduce((total, power) => total + power, 0);
    return powers.map((power) => power / sum);
  }

  /** The content of a file that `kerasimg run learn` and `set` read. */
  saved() {
    const { width } = this.origin;
    const values = new Float32Array(this.rows.length * width);
    this.rows.forEach((row, place) => values.set(row, place * width));
    return { ...this.origin, classes: this.classes, labels: this.labels, features: packedFloats(values) };
  }
}

/** {kernel, bias, leftOut}: logits are features * kernel + bias.  rows: an array of features for each example. */
export function fitHead(rows, labels, count) {
  const [n, width] = [rows.length, rows[0].length];
  const counts = new Array(count).fill(0);
  for (const label of labels) counts[label] += 1;
  const weights = labels.map((label) => 1 / (count * counts[label]));
  const mean = new Float64Array(width);
  rows.forEach((row, i) => row.forEach((value, k) => { mean[k] += weights[i] * value; }));
  let spread = 0;
  rows.forEach((row, i) => row.forEach((value, k) => { spread += weights[i] * (value - mean[k]) ** 2; }));
  const scale = Math.sqrt(Math.max(spread, 1e-24));
  const roots = weights.map(Math.sqrt);
  const centred = rows.map((row, i) => Float64Array.from(row, (value, k) => (roots[i] * (value - mean[k])) / scale));
  const targets = labels.map((label, i) =>
    Float64Array.from({ length: count }, (_, k) => roots[i] * ((label === k ? 1 : 0) - 1 / count)));
  const inverse = invertedCholesky(centred); // of the lower triangle L of L L' = rows rows' + PENALTY
  const half = targets.map((_, i) => combined(inverse[i], targets, i + 1, count));
  const dual = targets.map(() => new Float64Array(count));
  const diagonal = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      diagonal[j] += inverse[i][j] ** 2;
      for (let k = 0; k < count; k++) dual[j][k] += inverse[i][j] * half[i][k];
    }
  }
  // The scores of an example that is left out of the fit, without a fit for each.
  const scores = targets.map((target, i) => {
    const freedom = PENALTY * diagonal[i] - weights[i];
    return target.map((value, k) => (value - (PENALTY * dual[i][k]) / freedom) / roots[i] + 1 / count);
  });
  const several = labels.map((_, i) => i).filter((i) => counts[labels[i]] > 1);
  let [sharpness, leftOut] = [USUAL_SHARPNESS, null];
  if (several.length) {
    const sum = several.reduce((total, i) => total + weights[i], 0);
    const chosen = several.map((i) =>
      ({ scores: scores[i], label: labels[i], examples: counts[labels[i]], share: weights[i] / sum }));
    sharpness = bestSharpness(chosen);
    leftOut = chosen.reduce(
      (total, { scores, label, share }) => total + (scores.indexOf(Math.max(...scores)) === label ? share : 0), 0);
  }
  const kernel = new Float64Array(width * count);
  centred.forEach((row, i) => row.forEach((value, feature) => {
    for (let k = 0; k < count; k++) kernel[feature * count + k] += (value * dual[i][k] * sharpness) / scale;
  }));
  const bias = new Float64Array(count).fill(sharpness / count);
  mean.forEach((value, feature) => {
    for (let k = 0; k < count; k++) bias[k] -= value * kernel[feature * count + k];
  });
  return { kernel, bias, leftOut };
}

/** The inverse of the Cholesky factor of rows rows' + PENALTY, as a lower triangle. */
function invertedCholesky(rows) {
  const n = rows.length;
  const lower = [];
  for (let i = 0; i < n; i++) {
    lower.push(new Float64Array(i + 1));
    for (let j = 0; j <= i; j++) {
      let sum = dot(rows[i], rows[j], rows[i].length) - dot(lower[i], lower[j], j);
      if (i === j) sum += PENALTY;
      lower[i][j] = i === j ? Math.sqrt(sum) : sum / lower[j][j];
    }
  }
  const inverse = lower.map((_, i) => new Float64Array(i + 1));
  for (let i = 0; i < n; i++) {
    // Row i of the inverse, from the rows above.
    for (let j = 0; j < i; j++) {
      const factor = lower[i][j];
      for (let k = 0; k <= j; k++) inverse[i][k] -= factor * inverse[j][k];
    }
    for (let k = 0; k < i; k++) inverse[i][k] /= lower[i][i];
    inverse[i][i] = 1 / lower[i][i];
  }
  return inverse;
}

function dot(one, other, length) {
  let sum = 0;
  for (let k = 0; k < length; k++) sum += one[k] * other[k];
  return sum;
}

/** The sum of the first rows, each times its factor. */
function combined(factors, rows, length, count) {
  const sum = new Float64Array(count);
  for (let i = 0; i < length; i++) for (let k = 0; k < count; k++) sum[k] += factors[i] * rows[i][k];
  return sum;
}

/**
 * The factor of scores with the smallest log loss: where its derivative, which rises, is 0.
 *
 * Of a class with n examples, an example counts as one with probability (n + 1) / (n + 2), so that a few examples that
 * are all right do not make the model certain (Platt 1999).
 */
function bestSharpness(rows) {
  let [low, high] = SHARPNESS;
  for (let step = 0; step < HALVINGS; step++) {
    const middle = (low + high) / 2;
    let slope = 0;
    for (const { scores, label, examples, share } of rows) {
      const sure = (examples + 1) / (examples + 2);
      const other = (1 - sure) / (scores.length - 1);
      const most = Math.max(...scores);
      let [sum, expected, own] = [0, 0, (sure - other) * scores[label]];
      for (const score of scores) {
        own += other * score;
        const power = Math.exp(middle * (score - most));
        sum += power;
        expected += power * score;
      }
      slope += share * (expected / sum - own);
    }
    if (slope > 0) high = middle;
    else low = middle;
  }
  return (low + high) / 2;
}

function unpackedFloats(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

function packedFloats(values) {
  const bytes = new Uint8Array(values.buffer);
  let characters = "";
  for (let at = 0; at < bytes.length; at += 8192) characters += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(characters);
}
