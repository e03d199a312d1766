"""One HTML page of a registration or a cohort of them, which opens from disk with no network."""
