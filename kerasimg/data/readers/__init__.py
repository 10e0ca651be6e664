"""One adapter for each form in which pictures come; `kerasimg.data.sources` chooses among them."""
