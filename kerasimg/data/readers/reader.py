"""The base class of all readers: one class for each kind of data, with everything that is known about it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

from kerasimg.data.items import Reading
from kerasimg.spec.document import Task


class Reader:
    """One kind of data that `open_source` takes: how it is recognised and how it is read.

    Error messages and the table in docs/data.md are made from these attributes. A package adds a reader by an entry
    point of the group `kerasimg.sources` that names a subclass; it is made without arguments.

    Example:
        >>> class Lines(Reader):
        ...     name, takes, extensions = "lines", "`.lines`: a path and a label in each line", (".lines",)
        ...
        ...     def read(self, data, task, classes=()):
        ...         rows = [line.split() for line in open(data)]
        ...         return Reading([Item(path, path, (label,)) for path, label in rows], {label for _, label in rows})
    """

    name: ClassVar[str]
    """What the kind is called: "ZIP"."""
    takes: ClassVar[str]
    """What it looks like, in Markdown, for docs/data.md."""
    extra: ClassVar[str] = ""
    """The extra of the package that it needs: `pip install "kerasimg[EXTRA]"`."""
    extensions: ClassVar[tuple[str, ...]] = ()
    """Extensions of its files, in lower case."""
    several: ClassVar[bool] = False
    """Whether it reads any number of files as one data set: from a pattern, or a folder that holds only such files."""
    prefix: ClassVar[str] = ""
    """How a name begins that is not a path: "tfds:"."""
    objects: ClassVar[tuple[str, ...]] = ()
    """What it takes in Python besides paths, as error messages list it."""
    where: ClassVar[str] = ""
    """What `Source.where` says for objects in Python, which cannot be opened again by it."""

    def recognises(self, data: Any) -> bool:
        """Whether data is of this kind: a path (str), a name with a prefix, or any object."""
        if not isinstance(data, str):
            return False
        if self.prefix and data.startswith(self.prefix):
            return True
        return not self.several and self.recognises_file(data) and os.path.isfile(data)

    def recognises_file(self, path: str) -> bool:
        """Whether a file is of this kind by its name."""
        return bool(self.extensions) and path.lower().endswith(self.extensions)

    def read(self, data: Any, task: Task, classes: Sequence[str] = ()) -> Reading:
        """Reads the labelled images.

        Args:
            data: what was recognised; where `several`, the list of paths.
            task: the spec's task.
            classes: the classes of a trained model, if the images are for one.

        Raises:
            DataError: for what is wrong with the data, all errors at once.
        """
        raise NotImplementedError
