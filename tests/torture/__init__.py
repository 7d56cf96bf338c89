"""Real processes, killed at random moments, and the books afterwards.

Each scenario is a function with its counts as parameters that returns a `Report`.  The long form,
``python -m tests.torture``, is ``make torture``; tests/test_kills.py runs the short form.
"""
