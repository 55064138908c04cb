"""A deterministic simulation of a fleet of daemons: the real parts, in a world that is drawn from a seed.

`python -m tests.simulation --seed 7 --trace` lives through one seed again, `--seeds 5000 --processes 2` through many.
"""
