-- Bench: takes the gate away, and nothing else: every transaction rings.
create or replace function bisd.ring() returns void
language plpgsql as $$
begin
    perform pg_catalog.pg_notify('bisd', '');
end $$;
