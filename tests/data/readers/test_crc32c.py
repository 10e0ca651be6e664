import numpy as np
import pytest

from kerasimg.data.readers.crc32c import _one_by_one, crc32c, masked


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_the_sums_are_those_of_the_standard(data: bytes, expected: int):
    """RFC 3720, B.4."""
    assert crc32c(data) == expected


@pytest.mark.parametrize("length", [1, 3, 4, 5, 255, 256, 257, 16383, 16384, 16385, 300_000, (1 << 20) + 300])
def test_any_length_gives_what_byte_after_byte_gives(length: int):
    data = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8).tobytes()
    assert crc32c(data) == _one_by_one(data)


def test_a_record_written_by_tensorflow_has_the_masked_sum(tmp_path):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "x")) as writer:
        writer.write(bytes(70_000))
    stored = (tmp_path / "x").read_bytes()
    assert int.from_bytes(stored[-4:], "little") == masked(crc32c(bytes(70_000)))
    assert int.from_bytes(stored[8:12], "little") == masked(crc32c(stored[:8]))
