"""One adapter for each form in which images come; `kerasimg.data.sources` chooses among them."""
