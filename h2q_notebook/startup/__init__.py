"""Everything in order, and back: preflight, guard, model, pipeline, validation."""
