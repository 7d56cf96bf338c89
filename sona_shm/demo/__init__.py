"""The demonstration: a learner and some workers serve a stream of real requests together."""
