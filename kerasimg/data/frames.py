"""Images that come one after another: files, patterns, frames of a video or a camera, a watched folder, addresses."""

from __future__ import annotations

import glob
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasimg.boundary import limit
from kerasimg.data.image_files import EXTENSIONS, ImageInput
from kerasimg.data.images import named_images, require_local
from kerasimg.data.items import ManyFaults, fault
from kerasimg.errors import CallError, Fault, nearest_path

VIDEOS = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".y4m", ".mjpeg"))
"""Extensions of videos; which of them can be read is up to OpenCV."""
ADDRESS = re.compile(r"https?:/+", re.IGNORECASE)
POLL_S = 0.5
"""Time between two looks at a watched folder."""
TIMEOUT_S = 30.0


class Frame(NamedTuple):
    """One image of a stream."""

    name: str
    """Its path or address; of a video its path and time: "walk.mp4 at 12.5 s"."""
    image: ImageInput
    """A path, the bytes of a file, or pixels (H, W, 3) uint8."""
    total: int | None = None
    """The number of images that the stream has as far as it is known."""


def is_stream(source: str) -> bool:
    """Whether a source is no image file or folder: a video or an address."""
    return bool(ADDRESS.match(source)) or (os.path.splitext(source)[1].lower() in VIDEOS and not os.path.isdir(source))


def expand(sources: Sequence[str]) -> list[str]:
    """The sources, with each pattern ("photos/**/*.jpg") replaced by the files that match it.

    Raises:
        CallError: if no file matches a pattern.
    """
    paths: list[str] = []
    for source in sources:
        if ADDRESS.match(source) or os.path.exists(source) or not glob.has_magic(source):
            paths.append(source)
            continue
        matching = sorted(path for path in glob.glob(source, recursive=True) if os.path.isfile(path))
        if not matching:
            raise CallError(f"'{source}': no file matches this pattern")
        paths += matching
    return paths


def require_any(sources: Sequence[str]) -> None:
    """Raises a DataError if none of the sources exists: there is nothing to start Keras for.

    Where some exist, these are classified, and the others reported afterwards.
    """
    missing = [source for source in sources if not (ADDRESS.match(source) or os.path.lexists(source))]
    if missing and len(missing) == len(sources):
        raise ManyFaults(Fault(source, "", f"does not exist{nearest_path(source)}") for source in missing)


def frames_of(sources: Sequence[str], *, every_s: float = 1.0, download: bool = False) -> Iterator[Frame]:
    """The images of files, folders, videos and addresses, in order.

    Args:
        sources: as `expand` returns them.
        every_s: seconds between two frames of a video.
        download: whether images may be fetched from https addresses.

    Yields:
        The images; files are not read yet.

    Raises:
        CallError: for an address without `download`, or a source that does not exist.
        DataError: if a video or an address cannot be read.
    """
    known = 0
    for source in sources:
        if ADDRESS.match(source):
            known += 1
            yield Frame(source, fetch(source) if download else _refuse(source), known)
        elif is_stream(source):
            yield from video_frames(source, every_s)
        else:
            named = named_images([source])
            known += len(named)
            yield from (Frame(image.name, image.read(), known) for image in named)


def video_frames(path: str, every_s: float) -> Iterator[Frame]:
    """Frames of a video, as RGB pixels.

    Raises:
        DataError: if it cannot be read.
    """
    if not os.path.isfile(path):
        raise fault(path, "", "is not a file")
    with _capturing(path) as capture:
        import cv2

        rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        step = max(1, round(every_s * rate))
        total = -(-count // step) if count > 0 else None
        number = 0
        while capture.grab():  # frames in between are not converted
            if number % step == 0:
                read, pixels = capture.retrieve()
                if not read:
                    break
                yield Frame(f"{path} at {number / rate:.2f} s", _rgb(pixels), total)
            number += 1
        if number == 0:
            raise fault(path, "", "holds no frame that OpenCV can read; convert it to MP4 (H.264) or AVI (MJPEG)")


def camera_frames(number: int, every_s: float) -> Iterator[Frame]:
    """What a camera of this machine sees, until the caller stops.

    Args:
        number: of the camera, 0 for the first.
        every_s: seconds between two frames, at least.

    Raises:
        CallError: if there is no such camera.
    """
    with _capturing(number) as capture:
        began = time.monotonic()
        due = began
        while capture.grab():
            now = time.monotonic()
            if now < due:
                continue
            due = now + every_s
            read, pixels = capture.retrieve()
            if read:
                yield Frame(f"camera {number} at {now - began:.1f} s", _rgb(pixels))
    raise CallError(f"--camera {number}: the camera gives no more images; is it in use elsewhere, or unplugged?")


def watch(folder: str, *, poll_s: float = POLL_S) -> Iterator[Frame | None]:
    """The images of a folder and of those below it, and each new one as it comes, until the caller stops.

    An image counts when its size has not changed between two looks, so that one that is being copied is not read early.

    Yields:
        An image; None after each look at the folder.

    Raises:
        CallError: if it is no folder.
    """
    if not os.path.isdir(folder):
        raise CallError(f"--watch: '{folder}' is not a folder")
    seen: set[str] = set()
    sizes: dict[str, int] = {}
    while True:
        for path in sorted(_images_below(folder)):
            if path in seen:
                continue
            try:
                size = os.path.getsize(path)
            except OSError:  # removed meanwhile
                continue
            if size and sizes.get(path) == size:
                seen.add(path)
                sizes.pop(path)
                yield Frame(path, path)
            else:
                sizes[path] = size
        yield None
        time.sleep(poll_s)


def fetch(address: str) -> bytes:
    """The bytes of an image at an https address.

    Raises:
        DataError: if it cannot be fetched, or is larger than the limit.
        CallError: if the address is not of https.
    """
    if not address.lower().startswith("https://"):
        raise CallError(f"'{address}': only https addresses are fetched")
    request = urllib.request.Request(address, headers={"User-Agent": "kerasimg", "Accept": "image/*"})
    most = limit("download_bytes")
    try:
        with urllib.request.build_opener(_OnlyHttps()).open(request, timeout=TIMEOUT_S) as response:
            content = response.read(most + 1)
    except (OSError, ValueError) as error:  # URLError is an OSError
        raise fault(address, "", f"cannot be fetched: {getattr(error, 'reason', None) or error}") from None
    if len(content) > most:
        raise fault(address, "", f"is larger than {most // 2**20} MiB, the limit")
    return content


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirections to https addresses only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith("https://"):
            raise urllib.error.URLError(f"it redirects to {newurl[:80]}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _capturing:
    """An open video or camera of OpenCV."""

    def __init__(self, source: str | int) -> None:
        import cv2

        if isinstance(source, int):
            self.capture = cv2.VideoCapture(source)
        else:  # FFmpeg or OpenCV's own reader; a name with "%d" must not be taken for a series of images
            self.capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG)
        if not self.capture.isOpened():
            self.capture.release()
            if isinstance(source, int):
                raise CallError(f"--camera {source}: there is no such camera, or it is in use")
            raise fault(source, "", "is not a video that OpenCV can read; convert it to MP4 (H.264) or AVI (MJPEG)")

    def __enter__(self) -> Any:
        return self.capture

    def __exit__(self, *_: object) -> None:
        self.capture.release()


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[..., ::-1])


def _images_below(folder: str) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                yield os.path.join(place, name)


def _refuse(address: str) -> ImageInput:
    try:
        require_local(address)
    except CallError as error:
        raise CallError(f"{error}, or fetch it with --download") from None
    raise CallError(f"'{address}': addresses are not fetched")
