-- Bench: one now, so that none begins while something is measured, whose pages would be written to the WAL in full.
checkpoint
