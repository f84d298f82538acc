"""One guarded cell: snapshot, life cycle, undo, outcome."""
