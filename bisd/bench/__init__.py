"""bisd bench: how fast this machine delivers, and what it costs, beside the bare HTTP client of the same run."""
