-- Bench: rows that were left dead so far, in bisd's tables.
select coalesce(sum(n_tup_upd + n_tup_del), 0)::bigint from pg_catalog.pg_stat_user_tables where schemaname = 'bisd'
