"""Where shared memory and learning meet."""
