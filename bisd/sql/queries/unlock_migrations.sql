-- What lock_migrations.sql took.
select pg_advisory_unlock(1651143533)
