-- Makes this session a member of the fleet, for as long as it lives.
select pg_advisory_lock_shared(1651143524, 64)
