-- Bench: as autovacuum leaves it.
vacuum analyze bisd.delivery
