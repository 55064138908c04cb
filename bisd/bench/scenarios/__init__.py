"""What is measured, a scenario a function; bench/registry.py has their list."""
