-- Partitions of today and the next $1 days that are missing: one row each.
select format('%s_%s', parent.name, to_char(day.at, 'YYYYMMDD')) as missing
from (values ('event'), ('attempt')) as parent (name)
cross join lateral (select (now() at time zone 'UTC')::date + n from generate_series(0, $1::integer) n) as day (at)
where not exists (
    select
    from pg_catalog.pg_inherits i
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    where i.inhparent = format('bisd.%I', parent.name)::regclass and c.relname = format('%s_%s', parent.name, to_char(day.at, 'YYYYMMDD')))
order by 1
