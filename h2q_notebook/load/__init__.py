"""One model load under a budget: inspect, estimate, plan, load, validate, undo."""
