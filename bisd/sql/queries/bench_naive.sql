-- Bench: has every transaction ring, and changes nothing else.
create or replace function bisd.ring() returns void
language plpgsql as $$
begin
    perform pg_catalog.pg_notify('bisd', '');
end $$;
