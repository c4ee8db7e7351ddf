"""Everything that can run an integer network: one row of the literal dict EXECUTORS each."""
