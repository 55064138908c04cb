-- How many daemons are members, and which shards nobody holds: told by the advisory locks of this database. And how many members
-- were ended just now because they have not taken an answer for $1: their host is stopped or gone, and what the server still
-- has to send to them keeps it from noticing. Only those that we may end: other daemons run as the same role.
with held as materialized (
    select l.objid::bigint as key, l.pid
    from pg_catalog.pg_locks l
    where l.locktype = 'advisory' and l.classid = 1651143524 and l.objsubid = 2 and l.granted
      and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
)
select
    (select count(*) from held where key = 64) as members,
    array(select shard from generate_series(0, 63) shard where shard not in (select key from held)) as free,
    (select count(*) filter (where pg_terminate_backend(member.pid))
     from held member
     cross join lateral pg_stat_get_activity(member.pid) a
     join pg_catalog.pg_roles r on r.oid = a.usesysid
     where member.key = 64 and member.pid <> pg_backend_pid()
       and a.state = 'active' and a.wait_event = 'ClientWrite' and a.query_start < clock_timestamp() - $1::interval
       and pg_has_role(r.oid, 'usage') and (not r.rolsuper or current_setting('is_superuser')::boolean)) as evicted
