"""A card of the data of a run, in Croissant 1.0 (JSON-LD): classes, parts and hashes of the images, not the images.

Search engines and the Hugging Face Hub read it: https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from kerasimg.errors import CallError, counted
from kerasimg.run_folder import RunFolder, RunReference

FILE: Final = "croissant.json"
CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.0"
_TERMS: Final = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references"),
    *("regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS},
}
FIELDS: Final = {
    "file": "path of the image, relative to the data",
    "part": "train, validation or test",
    "labels": "labels of the image; several are separated by a vertical bar",
    "sha256": "SHA-256 of the file",
}


def data_card(run: RunReference, url: str = "") -> dict[str, Any]:
    """Returns the card of the images that a run was trained and evaluated on.

    Args:
        run: a run.
        url: where the model is published.

    Returns:
        The document, for a JSON file.

    Raises:
        CallError: if the run does not say what it was trained on.
    """
    files = RunFolder.open(run)
    record = files.data()
    if record is None:
        raise CallError(f"the run '{files.path}' has no record of its data")
    images = record["images"]
    parts = Counter(image["part"] for image in images)
    labels = Counter(label for image in images for label in image["labels"])
    name = str((files.spec() or {}).get("name") or files.path.name)
    described = ", ".join(f"{part} {parts[part]:,}" for part in ("train", "validation", "test") if parts[part])
    training = files.training() or {}
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": name,
        "version": "1.0.0",
        "description": (
            f"{counted(len(images), 'image')} of {counted(len(labels), 'class')} ({described}), on which the image "
            f"classifier '{name}' was trained and evaluated. The images themselves are not part of this card."
        ),
        **({"url": url} if url else {}),
        **({"datePublished": training["finished"]} if training.get("finished") else {}),
        "recordSet": [
            _records("classes", {"name": "name of the class", "images": "number of its images"}, "name")
            | {"data": [{"classes/name": label, "classes/images": count} for label, count in sorted(labels.items())]},
            _records("images", FIELDS, "file")
            | {
                "data": [
                    {
                        "images/file": image["id"],
                        "images/part": image["part"],
                        "images/labels": "|".join(image["labels"]),
                        "images/sha256": image["sha256"],
                    }
                    for image in images
                ]
            },
        ],
    }


def _records(name: str, fields: dict[str, str], key: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "key": {"@id": f"{name}/{key}"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{field}",
                "name": field,
                "description": about,
                "dataType": "sc:Integer" if field == "images" else "sc:Text",
            }
            for field, about in fields.items()
        ],
    }
