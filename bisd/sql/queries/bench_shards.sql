-- Bench: how many shards each daemon holds.
select count(*)::integer as held
from pg_catalog.pg_locks
where locktype = 'advisory' and classid = 1651143524 and objid < 64 and objsubid = 2 and granted
  and database = (select oid from pg_catalog.pg_database where datname = current_database())
group by pid
order by held
