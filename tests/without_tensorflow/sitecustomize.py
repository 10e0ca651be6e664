"""With this folder in PYTHONPATH, Python finds no TensorFlow, in this process and in those that it starts."""

import sys
from importlib.machinery import PathFinder

HIDDEN = {"tensorflow", "tensorflow_cpu", "tf_nightly", "tf2onnx", "tensorflow_datasets"}


class WithoutTensorFlow:
    """Finds what PathFinder finds, except TensorFlow and what needs it."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else PathFinder.find_spec(name, path, target)

    @staticmethod
    def find_distributions(context=None):
        found = PathFinder.find_distributions() if context is None else PathFinder.find_distributions(context)
        return (each for each in found if (each.name or "").replace("-", "_").lower() not in HIDDEN)

    @staticmethod
    def invalidate_caches():
        PathFinder.invalidate_caches()


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTensorFlow
