-- Where looking begins, and what the database's clock shows.
select pg_current_snapshot()::text as snapshot, clock_timestamp() as looked_at
