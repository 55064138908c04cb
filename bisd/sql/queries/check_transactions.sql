-- Transactions of this database that have been open for longer than $1, or idle for longer than $2; who, since when. And how many
-- sessions this role may not look at (pid null).
select a.pid, a.usename::text as role, a.application_name as name, a.state like 'idle in transaction%' as idle,
       extract(epoch from clock_timestamp() - a.xact_start)::double precision as seconds, 0 as unseen
from pg_catalog.pg_stat_activity a
where a.datname = current_database() and a.pid <> pg_backend_pid()
  and (a.xact_start < clock_timestamp() - $1::interval
       or (a.state like 'idle in transaction%' and a.state_change < clock_timestamp() - $2::interval))
union all
select null, null, null, null, null, count(*)::integer
from pg_catalog.pg_stat_activity a
where a.datname = current_database() and a.query = '<insufficient privilege>'
having count(*) > 0
order by seconds desc nulls last
