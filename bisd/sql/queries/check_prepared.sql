-- Transactions that were prepared longer than $1 ago, and neither committed nor rolled back.
select p.gid, p.owner::text as role, extract(epoch from clock_timestamp() - p.prepared)::double precision as seconds
from pg_catalog.pg_prepared_xacts p
where p.database = current_database() and p.prepared < clock_timestamp() - $1::interval
order by p.prepared
