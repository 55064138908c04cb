-- The fleet: every member, and whoever is leaving it and still holds shards, by the name it goes by (bisd, process id, host; null
-- where this role may not see it), since when, and which shards are its own.
with held as materialized (
    select l.objid::bigint as key, l.pid
    from pg_catalog.pg_locks l
    where l.locktype = 'advisory' and l.classid = 1651143524 and l.objsubid = 2 and l.granted
      and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
)
select a.application_name as name, a.backend_start as since,
       array(select own.key from held own where own.pid = member.pid and own.key < 64 order by own.key) as shards
from (select distinct h.pid from held h where h.key <= 64) member
left join pg_catalog.pg_stat_activity a on a.pid = member.pid
order by a.backend_start, member.pid
