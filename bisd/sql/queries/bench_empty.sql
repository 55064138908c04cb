-- Bench: every run begins with empty tables.
truncate bench.bare, bench.naive, bisd.notification, bisd.event, bisd.delivery, bisd.attempt
