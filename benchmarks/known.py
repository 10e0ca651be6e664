"""Unknown images: false alarms, power far and near, coverage of sets, the server's alarm, and what exports add.

    python benchmarks/known.py [--epochs 4] [--far FOLDER ...] [--near] [--exports] [--out known.json]

Trains `simple_cnn` on the sample (2,500 images of Fashion-MNIST that ship) and prints

- false alarms and coverage of prediction sets over 1,000 re-splits of the images that the model was not fitted to,
  against the Beta-binomial law, overall; and the false alarms of each class;
- power against far images: noise, the digits of scikit-learn, and the PNGs below each FOLDER;
- with --near, power against near images: each class is left out of a training in turn;
- false alarms of the server's alarm over 1,000 streams, and those of a martingale that bets on the p-values themselves;
- with --exports, the bytes and milliseconds that the p-value adds to each target, and its largest difference.

Exit code 1 if false alarms or coverage are outside of their law, or the alarm is raised more often than guaranteed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from scipy.stats import betabinom
from sklearn.datasets import load_digits

import kerasimg
from kerasimg.data.sources import open_source
from kerasimg.deploy.serve.alarm import JUMP, POWERS, RATE, ShiftAlarm
from kerasimg.evaluation.conformal import choose_rule, set_members
from kerasimg.evaluation.evaluate import choose_images, image_batches
from kerasimg.evaluation.known import METHODS, SHARE, fit_known
from kerasimg.evaluation.measures import roc_auc
from kerasimg.models.classifier import Classifier

SPLITS, HELD = 1000, 300
COVERAGE = 0.9
MOST_FAR = 500


def train(data: str, folder: Path, epochs: int) -> Classifier:
    edits = {"fit.stages": [{"epochs": epochs}], "fit.validation_split": 0.15}
    return Classifier.open(kerasimg.train("simple_cnn", data=data, out=folder, size=28, overrides=edits, verbose=0))


def scores_of(classifier: Classifier, method: str) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """A rule, and the p-value of each unseen image's score against no images: scores, labels and probabilities."""
    trained, held = (choose_images(classifier, None, part) for part in ("train", "validation"))
    known, _ = fit_known(classifier, trained, held, SHARE, method)
    unseen = [choose_images(classifier, None, part) for part in ("validation", "test")]
    scores, truth, p = [], [], []
    for chosen in unseen:
        scores.append(raw_scores(classifier, known, image_batches(classifier, chosen.source, chosen.indices)))
        truth.append(np.asarray(chosen.source.label_ids(chosen.indices)))
        p.append(classifier.probabilities(image_batches(classifier, chosen.source, chosen.indices)))
    return known, np.concatenate(scores), np.concatenate(truth), np.concatenate(p)


def raw_scores(classifier: Classifier, known: Any, images: Any) -> np.ndarray:
    from kerasimg.evaluation.known import HeadValues

    return HeadValues(classifier.head, classifier.values(images).required_features()).scores(known)  # type: ignore[arg-type]


def p_values(held: np.ndarray, scores: np.ndarray) -> np.ndarray:
    held = np.sort(held)
    return (len(held) - np.searchsorted(held, scores) + 1) / (len(held) + 1)


def resplit(scores: np.ndarray, truth: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    """False alarms and coverage over re-splits, with the band of the law that 95 % lie in."""
    random = np.random.default_rng(0)
    alarms, covered, by_class = [], [], []
    for _ in range(SPLITS):
        order = random.permutation(len(scores))
        held, rest = order[:HELD], order[HELD:]
        away = p_values(scores[held], scores[rest]) <= SHARE + 1e-6
        alarms.append(int(away.sum()))
        by_class.append([away[truth[rest] == k].mean() for k in range(p.shape[1])])
        members = set_members(p[rest], choose_rule(truth[held], p[held], COVERAGE))
        covered.append(int(members[np.arange(len(rest)), truth[rest]].sum()))
    rest = len(scores) - HELD
    a = int((HELD + 1) * SHARE + 1e-9)
    k = int(np.ceil(round((HELD + 1) * COVERAGE, 9)))
    result = {}
    for name, counts, law in (
        ("false alarms", alarms, betabinom(rest, a, HELD + 1 - a)),
        ("coverage", covered, betabinom(rest, k, HELD + 1 - k)),
    ):
        low, high = (law.ppf(q) / rest for q in (0.025, 0.975))
        shares = np.array(counts) / rest
        result[name] = {
            "mean": float(shares.mean()),
            "law_mean": float(law.mean() / rest),
            "band": [float(low), float(high)],
            "inside": float(((shares >= low) & (shares <= high)).mean()),
        }
    result["by_class"] = np.mean(by_class, axis=0).round(4).tolist()
    return result


def far_images(folders: list[str], side: int) -> dict[str, np.ndarray]:
    """Name -> images (N, side, side, 3), 0-255."""
    random = np.random.default_rng(0)
    digits = load_digits().images[:MOST_FAR] * (255 / 16)
    enlarged = [np.asarray(PIL.Image.fromarray(each.astype(np.uint8)).resize((side, side))) for each in digits]
    sets = {
        "noise": random.integers(0, 256, (MOST_FAR, side, side, 3)).astype(np.uint8),
        "digits": np.repeat(np.stack(enlarged)[..., None], 3, axis=-1),
    }
    for folder in folders:
        files = sorted(Path(folder).rglob("*.png"))
        chosen = files[:: max(1, len(files) // MOST_FAR)][:MOST_FAR]
        images = []
        for file in chosen:
            opened = PIL.Image.open(file).convert("RGBA")
            ground = PIL.Image.new("RGBA", opened.size, "white")
            images.append(np.asarray(PIL.Image.alpha_composite(ground, opened).convert("RGB").resize((side, side))))
        sets[Path(folder).name] = np.stack(images)
    return sets


def power(scores: np.ndarray, foreign: np.ndarray) -> dict[str, float]:
    held = np.random.default_rng(0).permutation(scores)
    labels = np.repeat([0, 1], [len(scores), len(foreign)])
    return {
        "auroc": float(roc_auc(labels, np.concatenate([scores, foreign]))),
        "rejected": float((p_values(held[:HELD], foreign) <= SHARE + 1e-6).mean()),
    }


def near(folder: Path, epochs: int) -> dict[str, dict[str, dict[str, float]]]:
    """Left-out class -> method -> power against its images, of a model that never saw it."""
    source = open_source("sample", "multiclass")
    truth = np.asarray(source.label_ids(np.arange(len(source))))
    results = {}
    for number, name in enumerate(source.classes):
        data, left = folder / f"without-{name}", []
        for index in range(len(source)):
            item = source.items[index]
            image = PIL.Image.fromarray(
                np.asarray(PIL.Image.open(item.image) if not hasattr(item.image, "shape") else item.image)
            )
            if truth[index] == number:
                left.append(np.asarray(image.convert("RGB").resize((28, 28))))
            else:
                place = data / source.classes[truth[index]]
                place.mkdir(parents=True, exist_ok=True)
                image.save(place / f"{index}.png")
        classifier = train(str(data), folder / "runs", epochs)
        foreign = np.stack(left).astype(np.float32)
        results[name] = {}
        for method in METHODS:
            known, scores, *_ = scores_of(classifier, method)
            results[name][method] = power(scores, raw_scores(classifier, known, foreign))
        print(
            f"  {name}: " + ", ".join(f"{m} {r['auroc']:.3f} / {r['rejected']:.1%}" for m, r in results[name].items()),
            flush=True,
        )
    return results


def alarm(streams: int = 1000, images: int = 2000, held: int = 100) -> dict[str, float]:
    """Share of streams without a change in which an alarm is raised: ours, and one that bets on the p-values."""
    random = np.random.default_rng(0)
    ours = naive = 0
    for _ in range(streams):
        p = p_values(random.normal(size=held), random.normal(size=images))
        ours += ShiftAlarm(held, random=random).add(p)
        bets, most = np.full(len(POWERS), 1 / len(POWERS)), 1.0
        for u in p - random.random(images) / (held + 1):
            bets = (1 - JUMP) * bets + JUMP * bets.mean()
            bets = bets * POWERS * max(u, 1e-12) ** (POWERS - 1)
            most = max(most, float(bets.sum()))
        naive += most >= 1 / RATE
    return {"guaranteed": RATE, "raised": ours / streams, "betting_on_p_values": naive / streams}


def exports(classifier: Classifier, folder: Path) -> list[dict[str, Any]]:
    """Each target with and without the p-value."""
    plain = replace(classifier, known=None)
    rows = []
    chosen = {
        "litert": ("float32", "float16", "dynamic", "int8"),
        "onnx": ("float32", "float16"),
        "openvino": ("float32", "float16"),
    }
    for target, precisions in chosen.items():
        sides = []
        for place, each in (("without", plain), ("with", classifier)):
            [bundle] = kerasimg.export(each, target, precision=list(precisions), out=folder / place, verbose=0)
            sides.append({row.path: (row, bundle) for row in bundle.manifest.parity})
        for path, (row, bundle) in sides[1].items():
            before = sides[0][path][0]
            rows.append(
                {
                    "model": f"{target}/{path}",
                    "bytes": row.bytes - before.bytes,
                    "ms": round(row.p50_ms - before.p50_ms, 4),
                    "of_ms": round(before.p50_ms, 4),
                    "p_difference": row.p_value_difference,
                    "allowed": row.tolerance.p_value,
                    "same_known": row.same_known,
                    "without": bundle.manifest.notes.get("no_p_values", {}).get(path),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4, help="default: 4")
    parser.add_argument("--far", nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--near", action="store_true")
    parser.add_argument("--exports", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        classifier = train("sample", folder, options.epochs)
        rules = {method: scores_of(classifier, method) for method in METHODS}
        result["resplit"] = {method: resplit(scores, truth, p) for method, (_, scores, truth, p) in rules.items()}
        for method, found in result["resplit"].items():
            for name in ("false alarms", "coverage"):
                row = found[name]
                print(
                    f"{method}, {name}: mean {row['mean']:.4f} (law {row['law_mean']:.4f}), {row['inside']:.1%} of "
                    f"{SPLITS} re-splits in its 95 % band {row['band'][0]:.3f} to {row['band'][1]:.3f}"
                )
            named = zip(classifier.classes, found["by_class"], strict=True)
            print("  by class: " + ", ".join(f"{name} {share:.1%}" for name, share in named), flush=True)
        result["far"] = {}
        for name, images in far_images(options.far, 28).items():
            result["far"][name] = {}
            for method, (known, scores, *_) in rules.items():
                result["far"][name][method] = power(scores, raw_scores(classifier, known, images.astype(np.float32)))
            own = result["far"][name].items()
            print(
                f"far, {name}: " + ", ".join(f"{m} {r['auroc']:.3f} / {r['rejected']:.1%}" for m, r in own), flush=True
            )
        result["alarm"] = alarm()
        print(f"alarm: {result['alarm']}", flush=True)
        if options.exports:
            result["exports"] = exports(classifier, folder)
            for row in result["exports"]:
                print(row, flush=True)
        if options.near:
            print("near, AUROC / rejected at 5 %:")
            result["near"] = near(folder, options.epochs)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    laws = [found[name]["inside"] for found in result["resplit"].values() for name in ("false alarms", "coverage")]
    sys.exit(min(laws) < 0.9 or result["alarm"]["raised"] > 2 * RATE)


if __name__ == "__main__":
    main()
