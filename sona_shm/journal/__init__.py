"""The journal: every decision and outcome in files, written by the learner, read by anybody."""
