"""h2q: run any cell and load any model without losing your kernel."""
