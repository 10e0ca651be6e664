"""Render the text files of a bundle from Jinja templates: README.md with code for each language, and others."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from kerasimg.deploy.bundle import README
from kerasimg.deploy.manifest import Manifest, ModelFile
from kerasimg.deploy.targets import Target, target
from kerasimg.errors import listed
from kerasimg.escaping import markdown
from kerasimg.spec.document import Image, Interpolation

TEMPLATES = Path(__file__).parent / "templates"

LITERT = "2.3.0"
"""LiteRT version for Android and Apple that the code is written for."""

LANGUAGES = {"Python": "python", "C++": "cpp", "Kotlin": "kotlin", "Swift": "swift", "JavaScript": "js"}
"""Heading -> language of the code block below it."""

FILTERS: dict[Interpolation, str] = {
    "nearest": "NEAREST",
    "bilinear": "BILINEAR",
    "bicubic": "BICUBIC",
    "lanczos": "LANCZOS",
    "area": "BOX",
}
"""`interpolation` -> Pillow's name."""

RESIZED = {
    "stretch": "stretched to {width} x {height}",
    "crop": "resized in its own aspect until it covers {width} x {height}",
    "pad": "resized in its own aspect until it fits into {width} x {height}",
}


def write_texts(folder: Path, manifest: Manifest, image: Image, classes: Sequence[str]) -> None:
    """Writes README.md and the target's further files into a bundle's folder."""
    (folder / README).write_text(readme(manifest, image, classes), encoding="utf-8")
    chosen = target(manifest.target)
    for name, template in chosen.files.items():
        text = snippet(chosen, template, manifest, image, manifest.models[0])
        (folder / name).write_text(text + "\n", encoding="utf-8")


def readme(manifest: Manifest, image: Image, classes: Sequence[str]) -> str:
    """Returns Markdown: what the bundle is, how an image becomes its input, and code to run it."""
    chosen = target(manifest.target)
    classes = [markdown(name) for name in classes]
    height, width = image.size
    resized = RESIZED[image.resize].format(width=image.resized[1], height=image.resized[0])
    if image.resize == "crop" or image.crop_fraction < 1:
        resized += f", of which the middle {width} x {height} are used"
    if image.resize == "pad":
        resized += f", in the middle of {width} x {height} pixels of the background"
    outputs = {
        "multiclass": f"{manifest.classes} probabilities, whose sum is 1",
        "binary": f"one probability: of '{classes[-1]}'",
        "multilabel": f"{manifest.classes} probabilities, of each label by itself",
    }
    return _render(
        chosen,
        "README.md.j2",
        manifest,
        image,
        manifest.models[0],
        names=listed(classes, 8),
        resized=resized,
        outputs_are=outputs[manifest.task],
        snippets=[
            (title, LANGUAGES.get(title, ""), snippet(chosen, template, manifest, image, manifest.models[0]))
            for title, template in chosen.snippets.items()
        ],
    )


def snippet(chosen: Target, template: str, manifest: Manifest, image: Image, model: ModelFile) -> str:
    """Returns the text of one of a target's templates for a model.

    The Kotlin and Swift code preprocesses decoded pixels itself, because the platforms' resizing does not antialias. It
    differs from the reference decoder by at most 1/255, because it uses floating-point weights and Pillow integers.
    The platform decodes the file and applies colour profiles.
    """
    return _render(chosen, template, manifest, image, model).rstrip("\n")


def _render(chosen: Target, template: str, manifest: Manifest, image: Image, model: ModelFile, **further: Any) -> str:
    environment = _templates(Path(inspect.getfile(type(chosen))).parent / "templates")
    labels = "of each label by itself" if manifest.task == "multilabel" else "whose sum is 1"
    answer = f"{manifest.classes} probabilities, {labels}, in the order of classes.json"
    if manifest.task == "binary":
        answer = "The probability of the second class of classes.json"
    return environment.get_template(template).render(
        manifest=manifest,
        image=image,
        model=model,
        height=image.size[0],
        width=image.size[1],
        channels=image.channels,
        outputs=1 if manifest.task == "binary" else manifest.classes,
        answer=answer,
        filter=FILTERS[image.interpolation],
        litert=LITERT,
        limit=None if manifest.known is None else f"{manifest.known.rule.share + 1e-6:.7g}",
        **further,
    )


@functools.cache
def _templates(folder: Path) -> jinja2.Environment:
    """Holds the compiled templates of a folder, and of kerasimg for what the folder lacks."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, TEMPLATES]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["format_number"] = lambda value: f"{value:g}"
    environment.filters["tuple"] = tuple
    return environment
