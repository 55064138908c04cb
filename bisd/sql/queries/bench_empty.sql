-- Bench: every run begins with empty tables.
truncate bench.bare, bisd.notification, bisd.event, bisd.delivery, bisd.attempt
