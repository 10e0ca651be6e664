"""The parts that a spec's augmentation is compiled to; `kerasimg.data.augment` puts them together."""
