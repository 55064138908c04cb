-- Lets the shards $1 go, and has the others take them at once.
with released as materialized (select pg_advisory_unlock(1651143524, shard) from unnest($1::integer[]) as shard)
select pg_notify('bisd', 'fleet') from (select count(*) from released) as all_of_them
