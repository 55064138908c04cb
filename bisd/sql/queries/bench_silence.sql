-- Bench: takes the bell away, and nothing else: the triggers work as before.
create or replace function bisd.ring() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    return;
end $$;
