"""Images and their labels: where they come from, whether they are sound, how they reach the model."""
