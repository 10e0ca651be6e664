"""The image and label columns of Arrow tables, for Parquet files and Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kerasimg.data.index import Labels
from kerasimg.data.items import class_name, fault
from kerasimg.data.readers.label_lists import remove_duplicates
from kerasimg.errors import CallError, listed

IMAGE = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")
LABEL = ("label", "labels", "class", "class_name", "cls", "category")
"""Names of columns, in order of preference."""


class Columns(NamedTuple):
    """The columns of the image and the label, and the class names."""

    image: str
    label: str
    classes: tuple[str, ...]
    """Empty: the numbers are the names."""


def require_pyarrow() -> None:
    """Raises a CallError if pyarrow is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise CallError('reading Parquet files needs pyarrow: pip install "kerasimg[parquet]"') from error
    del pyarrow


def choose_columns(where: str, schema: Any, features: Mapping[str, Any]) -> Columns:
    """Chooses the image and label columns of a pyarrow schema.

    features: those of Hugging Face, by column, as JSON; empty for other tables.
    """
    kinds = {name: _innermost(features.get(name)) for name in schema.names}
    images = [name for name, kind in kinds.items() if kind.get("_type") == "Image"]
    images = images or [field.name for field in schema if _holds_bytes(field.type)]
    labels = [name for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"]
    labels = labels or [name for name in LABEL if name in schema.names]
    image = _choose(where, schema, "an image (bytes, or a struct with bytes)", images, IMAGE)
    label = _choose(where, schema, "its label", [name for name in labels if name != image], LABEL)
    return Columns(image, label, tuple(class_name(name) for name in kinds[label].get("names") or ()))


def labels_of(column: Any, classes: Sequence[str]) -> tuple[Labels, list[tuple[int, str]]]:
    """The labels of a column of integers, text, or lists of them, and (row, message) for every error."""
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # no chunks, or too large for one array
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    count = len(array)
    starts = None
    faults = [(int(row), "expected a label, found null") for row in np.flatnonzero(_is_null(array))]
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        array = array.flatten()
    elif pa.types.is_fixed_size_list(array.type):
        starts = np.arange(count + 1, dtype=np.int64) * array.type.list_size
        array = array.flatten()
    if faults:
        return Labels((), np.empty(0, np.int32)), faults
    return _encode(array, classes, starts)


def _encode(array: Any, classes: Sequence[str], starts: np.ndarray | None) -> tuple[Labels, list[tuple[int, str]]]:
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    is_text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    owners = np.arange(len(array)) if starts is None else np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    nulls = np.flatnonzero(_is_null(array))
    if len(nulls):
        return Labels((), np.empty(0, np.int32)), [(int(owners[row]), "expected a label, found null") for row in nulls]
    if not is_text and not pa.types.is_integer(array.type):
        candidates = "nothing" if pa.types.is_null(array.type) else str(array.type)
        return Labels((), np.empty(0, np.int32)), [(0, f"expected integers or text as labels, found {candidates}")]
    encoded = array.dictionary_encode()
    values, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
    wrong = {code: message for code, value in enumerate(values) if (message := _wrong(value, classes))}
    faults = [(int(owners[row]), wrong[codes[row]]) for row in np.flatnonzero(np.isin(codes, list(wrong)))]
    if faults:
        return Labels((), np.empty(0, np.int32)), faults
    named = [classes[value] if classes and not is_text else class_name(str(value)) for value in values]
    names = tuple(dict.fromkeys(named))
    table = np.array([names.index(name) for name in named], np.int32)
    labels = Labels(names, table[codes] if len(codes) else codes, starts)
    # Repeats stay, since they may be multi-hot: see `resolve_lists`.
    return (remove_duplicates(labels) if classes else labels), []


def _wrong(value: Any, classes: Sequence[str]) -> str:
    if isinstance(value, int) and classes and not 0 <= value < len(classes):
        return f"expected a label of 0 to {len(classes) - 1}, found {value}"
    return "" if class_name(str(value)) else f"expected a label, found {value!r}"


def _choose(where: str, schema: Any, what: str, candidates: Sequence[str], names: Iterable[str]) -> str:
    preferred = next((name for name in names if name in candidates), None)
    if preferred or len(candidates) == 1:
        return preferred or candidates[0]
    columns = listed(f"{field.name} ({field.type})" for field in schema)
    if candidates:
        advice = f"rename the right one to '{next(iter(names))}'"
        raise fault(where, "", f"expected one column with {what}, found {listed(candidates)}; {advice}")
    raise fault(where, "", f"expected a column with {what}, named {listed(names)}; found {columns}")


def _innermost(feature: Any) -> Mapping[str, Any]:
    """The description of a feature, or of the elements of a list."""
    while True:
        if isinstance(feature, list) and feature:
            feature = feature[0]
        elif isinstance(feature, Mapping) and "feature" in feature:
            feature = feature["feature"]
        else:
            return feature if isinstance(feature, Mapping) else {}


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_null(array: Any) -> np.ndarray:
    return np.asarray(array.is_null().to_numpy(zero_copy_only=False), bool)
