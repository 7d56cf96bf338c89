"""Looking at an engine without writing to it."""
