"""Where what `kerasimg.objects` makes is looked for by the modules of this floor."""

from kerasimg.objects import convert, find, make, make_layer

__all__ = ["convert", "find", "make", "make_layer"]
