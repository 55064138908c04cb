select pg_advisory_unlock(1651143533)
