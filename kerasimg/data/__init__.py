"""Images and their labels: sources, labels, splits, decoding, checks, batches."""
