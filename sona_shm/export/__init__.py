"""Files that carry what was learned to other programs and back: adapters, patterns, preferences."""
