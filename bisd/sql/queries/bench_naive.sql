-- Bench: takes the gate away, and nothing else: every transaction rings.
create or replace function bisd.ring() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_notify('bisd', '');
end $$;
