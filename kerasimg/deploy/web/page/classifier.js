// A classifier in the browser: LiteRT.js runs the model, `images.js` and `pixels.js` make its input.
//
//   import { Classifier } from "./kerasimg/classifier.js";
//   const classifier = await Classifier.load("./");
//   const { label, ranked } = await classifier.classify(file);

import { loadAndCompile, loadLiteRt, Tensor } from "../litert/index.js";
import { readImage } from "./images.js";
import { Learner } from "./learner.js";
import { modelInput } from "./pixels.js";

export class Classifier {
  constructor(about, model, examples) {
    /** {name, task, classes, thresholds, image}: metadata from the bundle. */
    this.about = about;
    this.model = model;
    /** What new classes are learned by; null if the model has no features as a second output. */
    this.learner = examples ? new Learner(examples) : null;
    this.turn = Promise.resolve();
  }

  /** Loads the classifier of an exported folder by its URL, which must be on a server.  accelerator: as for `open`. */
  static async load(folder = "./", accelerator = "wasm") {
    const at = new URL(folder, document.baseURI);
    const read = async (name) => {
      const answer = await fetch(new URL(name, at));
      if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
      return answer;
    };
    const [about, model] = await Promise.all([
      read("about.json").then((answer) => answer.json()),
      read("model.tflite").then((answer) => answer.arrayBuffer()),
    ]);
    const examples = about.learns ? await (await read("examples.json")).json() : null;
    return Classifier.open(about, new Uint8Array(model), new URL("litert/", at).href, examples, accelerator);
  }

  /**
   * Opens a classifier from a model's bytes.
   *
   * runtime: URL of LiteRT's folder, or of one of its loaders.  examples: content of `examples.json`, to learn classes.
   * accelerator: "wasm" (the CPU) or "webgpu", where `accelerator` of the result says whether the GPU has every operation.
   */
  static async open(about, bytes, runtime, examples = null, accelerator = "wasm") {
    await loadLiteRt(runtime);
    const model = await loadAndCompile(bytes, { accelerator });
    const classifier = new Classifier(about, model, examples);
    classifier.accelerator = accelerator === "webgpu" && model.isFullyAccelerated ? "webgpu" : "wasm";
    return classifier;
  }

  /** The model's input for an image: bytes (height, width, channels), 0-255.  image: as for `readImage`. */
  async pixels(image) {
    const contract = this.about.image;
    return modelInput(await readImage(image, contract.background), contract);
  }

  /** The model's outputs, one for each class (binary: one), 0 to 1.  image: as for `readImage`. */
  async probabilities(image) {
    return this.run(await this.pixels(image));
  }

  /** The probabilities of an image and, behind them, the p-value if the model gives it. */
  async row(image) {
    const { probabilities, p_value: pValues = [] } = await this.outputs(await this.pixels(image));
    return [...probabilities, ...pValues];
  }

  /** The features of an image, by which new classes are learned. */
  async features(image) {
    return (await this.outputs(await this.pixels(image))).features;
  }

  /** The probabilities of the classes that were learned. */
  async learned(image) {
    return this.learner.probabilities(await this.features(image));
  }

  /** The model's outputs for its input pixels. */
  async run(pixels) {
    return (await this.outputs(pixels)).probabilities;
  }

  /** The values of the model's outputs by their names: {probabilities, p_value, features}, as `about.outputs` lists. */
  async outputs(pixels) {
    const answer = this.turn.then(() => this.answer(pixels));
    this.turn = answer.catch(() => {}); // one call after another
    return answer;
  }

  async answer(pixels) {
    const [{ dtype, shape }] = this.model.getInputDetails();
    const input = new Tensor(dtype === "uint8" ? pixels : Float32Array.from(pixels), Array.from(shape));
    try {
      const outputs = await this.model.run(input);
      const values = await Promise.all(outputs.map(async (output) => Array.from(await output.data())));
      for (const output of outputs) output.delete();
      const own = this.model.getOutputDetails().map(({ name }) => name);
      const names = outputs.length === 1 ? this.about.outputs : own;
      return Object.fromEntries(names.map((name, place) => [name, values[place]]));
    } finally {
      input.delete();
    }
  }

  /**
   * Classifies an image: {label, ranked, probabilities}, and {known, pValue} if the model says whether it is unknown.
   *
   * known: whether the image is like the training images; if not, it is none of the classes.
   * label: the class; for a multilabel task, the list of assigned labels.
   * ranked: [{label, probability, holds}], most likely first.
   * set: the prediction set, most likely first, if the model has a rule for one.
   */
  async classify(image) {
    const { probabilities, p_value: pValues, features } = await this.outputs(await this.pixels(image));
    if (!this.learner?.ready) return { ...this.decide(probabilities), ...this.unusual(pValues) };
    const { classes } = this.learner;
    return this.decide(this.learner.probabilities(features), { classes, task: "multiclass", thresholds: null });
  }

  unusual(pValues) {
    // p-values are multiples of 1 / (n + 1), in float32.
    return pValues ? { known: pValues[0] > this.about.share + 1e-6, pValue: pValues[0] } : {};
  }

  /** The names in the prediction set of probabilities, one for each class, most likely first: as `conformal.py`. */
  set(shares) {
    const { method, limits } = this.about.sets;
    const { penalty, free } = this.about;
    const order = shares.map((_, index) => index).sort((one, other) => shares[other] - shares[one]);
    let sum = 0;
    const inside = order.filter((index, place) => {
      sum += shares[index];
      const late = method === "raps" ? penalty * Math.max(0, place + 1 - free) : 0;
      const score = method === "lac" ? 1 - shares[index] : sum + late;
      return place === 0 || score <= limits[limits.length === 1 ? 0 : index];
    });
    return inside.map((index) => this.about.classes[index]);
  }

  decide(probabilities, { classes, task, thresholds } = this.about) {
    const shares = task === "binary" ? [1 - probabilities[0], probabilities[0]] : probabilities;
    const limit = (index) => (thresholds ? thresholds[index] : 0.5);
    const best = task === "binary" ? Number(probabilities[0] > limit(0)) : shares.indexOf(Math.max(...shares));
    const several = task === "multilabel";
    const ranked = classes
      .map((label, index) => ({
        label,
        probability: shares[index],
        holds: several ? shares[index] > limit(index) : index === best,
      }))
      .sort((one, other) => other.probability - one.probability);
    const held = ranked.filter(({ holds }) => holds).map(({ label }) => label);
    const found = { label: several ? held : held[0], ranked, probabilities };
    return classes === this.about.classes && this.about.sets ? { ...found, set: this.set(shares) } : found;
  }
}
