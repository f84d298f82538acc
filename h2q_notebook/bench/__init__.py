"""The bench: real generation, execution in a fenced process, scores that nobody can forge."""
