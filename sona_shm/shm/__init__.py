"""Mechanism: segments, locks, lanes, cells.  Knows nothing of learning."""
