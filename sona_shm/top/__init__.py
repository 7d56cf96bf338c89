"""The live view of an engine in a terminal."""
