"""An LLM router whose workers learn as one; see README.md."""
