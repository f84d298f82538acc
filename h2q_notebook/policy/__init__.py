"""Policy judges: pure decisions from readings, budgets and time; no I/O, clock or thread."""
