// A classifier in the browser: LiteRT.js runs the model, `images.js` and `pixels.js` make its input.
//
//   import { Classifier } from "./kerasimg/classifier.js";
//   const classifier = await Classifier.load("./");
//   const { label, ranked } = await classifier.classify(file);

import { loadAndCompile, loadLiteRt, Tensor } from "../litert/index.js";
import { readImage } from "./images.js";
import { modelInput } from "./pixels.js";

export class Classifier {
  constructor(about, model) {
    /** {name, task, classes, thresholds, image}: metadata from the bundle. */
    this.about = about;
    this.model = model;
    this.turn = Promise.resolve();
  }

  /** Loads the classifier of an exported folder by its URL, which must be on a server. */
  static async load(folder = "./") {
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
    return Classifier.open(about, new Uint8Array(model), new URL("litert/", at).href);
  }

  /** Opens a classifier from a model's bytes.  runtime: URL of LiteRT's folder, or of one of its loaders. */
  static async open(about, bytes, runtime) {
    await loadLiteRt(runtime);
    return new Classifier(about, await loadAndCompile(bytes, { accelerator: "wasm" }));
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

  /** The model's outputs for its input pixels. */
  async run(pixels) {
    const answer = this.turn.then(() => this.answer(pixels));
    this.turn = answer.catch(() => {}); // one call after another
    return answer;
  }

  async answer(pixels) {
    const [{ dtype, shape }] = this.model.getInputDetails();
    const input = new Tensor(dtype === "uint8" ? pixels : Float32Array.from(pixels), Array.from(shape));
    try {
      const outputs = await this.model.run(input);
      const values = Array.from(outputs[0].toTypedArray());
      for (const output of outputs) output.delete();
      return values;
    } finally {
      input.delete();
    }
  }

  /**
   * Classifies an image: {label, ranked, probabilities}.
   *
   * label: the class; for a multilabel task, the list of assigned labels.
   * ranked: [{label, probability, holds}], most likely first.
   */
  async classify(image) {
    return this.decide(await this.probabilities(image));
  }

  decide(probabilities) {
    const { classes, task, thresholds } = this.about;
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
    return { label: several ? held : held[0], ranked, probabilities };
  }
}
