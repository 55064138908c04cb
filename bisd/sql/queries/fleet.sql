-- How many daemons are members, and which shards nobody holds: told by the advisory locks of this database.
with held as materialized (
    select l.objid::bigint as key, l.mode
    from pg_catalog.pg_locks l
    where l.locktype = 'advisory' and l.classid = 1651143524 and l.objsubid = 2 and l.granted
      and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
)
select
    (select count(*) from held where key = 64) as members,
    array(select shard from generate_series(0, 63) shard where shard not in (select key from held)) as free
