-- Bench: how many statements this database was sent, without the benchmark's own.
select coalesce(sum(calls), 0)::bigint
from pg_stat_statements
where dbid = (select oid from pg_catalog.pg_database where datname = current_database()) and query not like '-- Bench:%'
