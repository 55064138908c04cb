-- Bench: all that is owed is due in a day.
update bisd.delivery set due_at = now() + interval '1 day'
