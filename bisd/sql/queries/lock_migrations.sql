-- One migrates at a time; the lock is the session's.
select pg_advisory_lock(1651143533)
