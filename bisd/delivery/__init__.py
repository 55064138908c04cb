"""The data path, one file per stage: arrival, lane, message, post, verdict, writeback."""
