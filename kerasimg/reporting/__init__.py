"""A run as one page to read and share, and its model card."""
