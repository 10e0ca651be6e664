"""The README of a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kerasimg.deploy import readme_code, snippets
from kerasimg.deploy.manifest import Manifest, ModelFile, RuntimeName
from kerasimg.errors import listed
from kerasimg.escaping import markdown
from kerasimg.spec.document import Image

Code = Callable[[Manifest, Image, ModelFile], str]

CODE: dict[RuntimeName, tuple[tuple[str, str, Code], ...]] = {
    "litert": (
        ("Python", "python", readme_code.python),
        ("C++", "cpp", readme_code.cpp),
        ("Kotlin", "kotlin", snippets.kotlin),
        ("Swift", "swift", snippets.swift),
        ("JavaScript", "js", snippets.javascript),
    ),
    "onnx": (("Python", "python", readme_code.python), ("C++", "cpp", readme_code.cpp)),
    "openvino": (("Python", "python", readme_code.python), ("C++", "cpp", readme_code.cpp)),
    "tensorflow": (("Python", "python", readme_code.python),),
    "keras": (("Python", "python", readme_code.python),),
    "browser": (("JavaScript", "js", snippets.javascript),),
    "tflite-micro": (("C++", "cpp", snippets.microcontroller),),
}
"""Runtime -> (title, language of the block, what writes it) for the bundle's first model."""

RESIZED = {
    "stretch": "stretched to {width} x {height}",
    "crop": "the largest box of {width} x {height}'s aspect about its centre, resized to {width} x {height}",
    "pad": "fitted into {width} x {height} in its own aspect, on the background",
}


def readme(manifest: Manifest, image: Image, classes: Sequence[str]) -> str:
    """Markdown: what the bundle is, how an image becomes its input, and code to run it."""
    return "\n".join([*_about(manifest, image, classes), *_code(manifest, image)]) + "\n"


def _about(manifest: Manifest, image: Image, classes: Sequence[str]) -> Iterator[str]:
    classes = [markdown(name) for name in classes]
    outputs = {
        "multiclass": f"{manifest.classes} probabilities, whose sum is 1",
        "binary": f"one probability: of '{classes[-1]}'",
        "multilabel": f"{manifest.classes} probabilities, of each label by itself",
    }
    height, width = image.size
    colour = "RGB" if image.channels == 3 else "grey (ITU-R 601-2 luma)"
    resized = RESIZED[image.resize].format(width=width, height=height)
    yield f"# {manifest.name}, for {manifest.target}"
    yield ""
    yield f"An image classifier of {manifest.classes} classes ({listed(classes, 8)}), exported by kerasimg."
    yield ""
    yield "| model | runtime | precision | input | images at a time |"
    yield "| --- | --- | --- | --- | --- |"
    for model in manifest.models:
        row = (f"`{model.path}`", model.runtime, model.precision, model.input_dtype, str(model.batch or "any number"))
        yield f"| {' | '.join(row)} |"
    yield ""
    yield f"- In: (N, {height}, {width}, {image.channels}), {colour}, values 0 to 255; the scaling is inside the model."
    if any(model.input_dtype == "int8" for model in manifest.models):
        yield "- An int8 input is the pixel less 128."
    yield f"- An image is turned upright as its EXIF says, laid over {tuple(image.background)} where it is"
    yield f"  transparent, and {resized}, antialiased {image.interpolation}. All of it stands in `preprocess.json`."
    yield f"- Out: {outputs[manifest.task]}. Names, in their order: `classes.json`."
    if manifest.thresholds:
        yield f"- Decided for above: {', '.join(f'{value:g}' for value in manifest.thresholds)}."
    yield "- `vectors/`: images, the input they become, and the probabilities to expect. `manifest.json`: hashes of"
    yield "  all files, and how the models compare with the one that was trained."
    yield "- `kerasimg run verify .` proves both on this machine, without TensorFlow where the runtime needs none."


def _code(manifest: Manifest, image: Image) -> Iterator[str]:
    for title, language, write in CODE.get(manifest.models[0].runtime, ()):
        yield ""
        yield f"## {title}"
        yield ""
        yield f"```{language}"
        yield write(manifest, image, manifest.models[0])
        yield "```"
