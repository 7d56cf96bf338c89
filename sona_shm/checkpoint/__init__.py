"""What an engine has learned, as a file: taken, checked, restored, resized."""
