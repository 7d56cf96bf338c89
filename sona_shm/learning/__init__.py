"""Mathematics on plain arrays.  Knows nothing of shared memory."""
