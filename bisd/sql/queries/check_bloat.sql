-- The tables in which rows die, and how many that vacuum has not taken away; since when none has, and whether it is switched off.
select format('bisd.%s', t.relname) as name, t.n_live_tup as live, t.n_dead_tup as dead,
       greatest(t.last_autovacuum, t.last_vacuum) as vacuumed_at,
       exists (select from unnest(c.reloptions) as o where o in ('autovacuum_enabled=false', 'autovacuum_enabled=off')) as off
from pg_catalog.pg_stat_user_tables t
join pg_catalog.pg_class c on c.oid = t.relid
where t.schemaname = 'bisd' and t.relname in ('delivery', 'webhook', 'account', 'notification')
order by t.relname
