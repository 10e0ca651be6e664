"""MODEL_CARD.md in the conventions of the Hugging Face hub: YAML for machines, Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerasimg.errors import counted
from kerasimg.escaping import json_text, markdown
from kerasimg.reporting.wording import headline, words
from kerasimg.spec.load import Spec

METRICS = {"macro_f1": "f1", "subset_accuracy": "accuracy", "macro_precision": "precision", "macro_recall": "recall"}
"""Our name of a figure -> the hub's, where it has one of its own."""
UNKNOWN = "unknown"


def model_card(content: Mapping[str, Any]) -> str:
    """The card of a run.  content: what the report is made from."""
    model = f"\n{content['model_mark']}\n" if content["model_mark"] else ""
    return f"---\n{_front_matter(content)}---\n\n{_body(content)}{model}"


def _front_matter(content: Mapping[str, Any]) -> str:
    """YAML whose scalars are written as JSON, which YAML reads: nothing in a name can be taken for YAML."""
    spec: Spec = content["spec"]
    scores = content["scores"]
    lines = [
        "library_name: keras",
        f"license: {_yaml(_license(spec))}",
        "pipeline_tag: image-classification",
        "tags:",
        *(f"- {tag}" for tag in ("image-classification", "keras", "kerasimg")),
    ]
    if not scores:
        return "\n".join(lines) + "\n"
    figures = headline(scores)
    metrics = dict.fromkeys(METRICS.get(figure.key, figure.key) for figure in figures)
    data = Path(scores["data"]).name or scores["data"]
    lines += [
        "metrics:",
        *(f"- {metric}" for metric in metrics),
        "model-index:",
        f"- name: {_yaml(content['name'])}",
        "  results:",
        "  - task:",
        "      type: image-classification",
        "    dataset:",
        f"      name: {_yaml(data)}",
        "      type: imagefolder",
        f"      split: {_yaml(scores['part'])}",
        "    metrics:",
    ]
    for figure in figures:
        lines += [
            f"    - type: {METRICS.get(figure.key, figure.key)}",
            f"      name: {_yaml(figure.name)}",
            f"      value: {_yaml(round(scores[figure.key], 4))}",
        ]
    return "\n".join(lines) + "\n"


def _body(content: Mapping[str, Any]) -> str:
    spec: Spec = content["spec"]
    scores, data, facts = content["scores"], content["data"], content["facts"]
    parts = [f"# {markdown(content['name'])}", markdown(spec.about) or "An image classifier."]
    height, width = spec.image.size
    colours = {1: "grey", 3: "RGB"}.get(spec.image.channels, counted(spec.image.channels, "channel"))
    classes = content["classes"]
    listed = ", ".join(markdown(name) for name in classes[:50]) + (" …" if len(classes) > 50 else "")
    parts.append(
        f"- Task: {spec.task}, {counted(len(classes), 'class')}: {listed}\n"
        f"- Input: {height} × {width} pixels, {colours}, values 0-255; the "
        "scaling is inside the model"
        + (f"\n- Size: {counted(facts.params, 'parameter')}, {facts.bytes / 1e6:.1f} MB" if facts else "")
    )
    parts.append(
        "## Use\n\n```python\nimport kerasimg\n\n"
        'kerasimg.predict("model.keras", "photo.jpg")\n```\n\n'
        "`model.keras` opens with `keras.models.load_model`, too."
    )
    if scores:
        rows = [f"| {f.name} | {f.value} | {f.interval or '–'} |" for f in headline(scores)]
        seen = f"{scores['trained_on']:,} of which were" if scores.get("trained_on") else "which were not"
        stale = "".join(f"**Warning:** {markdown(line)}\n\n" for line in content["stale"])
        parts.append(
            f"## Figures\n\n{stale}On the {counted(scores['n'], 'image')} of the {scores['part']} split, {seen} "
            "trained on.\n\n| figure | value | 95 % interval |\n| --- | ---: | ---: |\n" + "\n".join(rows)
        )
    if data:
        totals = ", ".join(f"{part} {count:,}" for part, count in data["totals"].items())
        parts.append(f"## Data\n\n{totals} images. `data.json` lists every file with its SHA-256.")
    parts.append(
        "## Limits\n\nThe figures hold for images like those of the test split. An image of none of the classes still "
        "gets one of them. The figures of each class, and the mistakes, are in `report.html`."
    )
    if spec.card.source or spec.card.license:
        parts.append(
            "## Origin\n\n"
            + "\n".join(
                f"- {words(key)}: {markdown(value)}"
                for key, value in (
                    ("architecture", spec.card.source),
                    ("license of the spec and of the weights it names", spec.card.license),
                )
                if value
            )
            + "\n\nThe licence of a trained model also depends on the images it was trained on."
        )
    return "\n\n".join(parts) + "\n"


def _license(spec: Spec) -> str:
    """The hub's identifiers are SPDX ones in lower case."""
    return (spec.card.license or UNKNOWN).lower()


def _yaml(value: Any) -> str:
    return json_text(json.dumps(value, ensure_ascii=False))


def _one_line(text: str) -> str:
    return " ".join(text.split())
