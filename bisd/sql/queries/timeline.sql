-- On which timeline this server writes: a standby that is promoted begins the next one.
select ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
