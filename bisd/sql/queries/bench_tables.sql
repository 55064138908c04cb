-- Bench: what bisd's triggers are compared with: the same table without triggers, and one with a NOTIFY for every row.
create schema bench;
create table bench.bare (like bisd.notification including all);
create table bench.naive (like bisd.notification including all);
create function bench.notify() returns trigger language plpgsql as $$
begin
    perform pg_notify('bench', new.id::text);
    return null;
end $$;
create trigger notify after insert on bench.naive for each row execute function bench.notify();
