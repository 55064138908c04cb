-- Bench: a transaction that has an id and a snapshot, and is left open.
select pg_current_xact_id()
