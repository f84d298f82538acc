"""What prints the figures of the README; results as JSON in ``results``."""
