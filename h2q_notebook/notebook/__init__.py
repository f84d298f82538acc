"""Everything meets here: one session per kernel, its names, its displays, its settings."""
