"""One sampling pass: what it applies, what it has done, what is said of it."""
