"""Readings observe: memory of processes and of the machine, never a decision."""
