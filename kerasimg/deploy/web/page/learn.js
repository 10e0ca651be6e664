// The part of the page that learns new classes: name one, give images, save, open again.

import { fail, openCamera, part, showClasses } from "./page.js";

let changed = false; // since it was saved

window.kerasimg.then(showLearned, () => {});

const chosenName = () => part("learn-name").value.trim();
const sayLearned = (text) => { part("learn-status").textContent = text; };

part("learn-form").addEventListener("submit", (event) => {
  event.preventDefault();
  part("learn-files").click();
});

part("learn-files").addEventListener("change", async ({ target }) => {
  const files = [...target.files];
  target.value = ""; // so that the same files can be chosen again
  await teach(chosenName(), files);
});

part("learn-camera").addEventListener("click", () => {
  if (!part("learn-form").reportValidity()) return;
  const name = chosenName();
  openCamera({ title: `Take an image of ${name}`, taken: (image) => teach(name, [image]) });
});

/** Adds images to a class, one after another.  images: Files or Blobs. */
async function teach(name, images) {
  if (!images.length || !name) return;
  const classifier = await window.kerasimg;
  const problems = [];
  part("problem").hidden = true;
  for (const [place, image] of images.entries()) {
    sayLearned(`Learning ${name}: image ${place + 1} of ${images.length} …`);
    await new Promise((painted) => setTimeout(painted));
    try {
      classifier.learner.add(name, await classifier.features(image));
      changed = true;
    } catch (error) {
      problems.push(`${image.name ?? "the image"} ${error.message}`);
    }
  }
  await showLearned();
  if (problems.length) fail(problems.slice(0, 5).join("; ") + (problems.length > 5 ? "; …" : ""));
}

/** Shows the classes with their examples, and how good the fit is. */
async function showLearned() {
  const { learner, about } = await window.kerasimg;
  const counts = [...learner.counts];
  part("learn-names").replaceChildren(...counts.map(([name]) => new Option(name, name)));
  const taught = new Set(learner.labels.slice(learner.origin.labels.length).map((label) => learner.classes[label]));
  part("learn-classes").replaceChildren(...counts.map(([name, count]) => learnedRow(name, count, taught.has(name))));
  part("learn-save").disabled = !learner.taught;
  showClasses(learner.ready ? learner.classes : about.classes);
  if (!learner.taught) return sayLearned("");
  if (!learner.ready) return sayLearned("Teach it one more class, so that there are two to tell apart.");
  learner.fit();
  const { leftOut } = learner.head;
  const right = leftOut === null ? "" : ` ${Math.round(leftOut * 100)} % of the examples are recognized when each is left out in turn.`;
  return sayLearned(`Learned ${learner.classes.length} classes from ${learner.labels.length} examples.${right} Try it above.`);
}

function learnedRow(name, count, taught) {
  const row = document.createElement("li");
  const text = document.createElement("span");
  text.textContent = `${name}: ${count} ${count === 1 ? "example" : "examples"}`;
  row.append(text);
  if (taught) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "second";
    button.textContent = "Forget";
    button.setAttribute("aria-label", `Forget what was added to ${name}`);
    button.addEventListener("click", async () => {
      (await window.kerasimg).learner.forget(name);
      changed = true;
      await showLearned();
      part("learn-name").focus();
    });
    row.append(button);
  }
  return row;
}

part("learn-save").addEventListener("click", async () => {
  const { learner } = await window.kerasimg;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(learner.saved())], { type: "application/json" }));
  link.download = `${learner.origin.name}-learned.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  changed = false;
  sayLearned(`Saved as ${link.download}. To go on in Python: kerasimg run learn RUN ${link.download}`);
});

part("learn-open").addEventListener("click", () => part("learn-file").click());
part("learn-file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (!file) return;
  try {
    (await window.kerasimg).learner.set(JSON.parse(await file.text()));
    part("problem").hidden = true;
    await showLearned();
  } catch (error) {
    fail(`${file.name} ${error instanceof SyntaxError ? "is not a file that this page saved" : error.message}`);
  }
});

addEventListener("beforeunload", (event) => {
  if (changed) event.preventDefault();
});
