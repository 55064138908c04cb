-- This session is no member of the fleet any more; the shards that it holds are still its own.
select pg_advisory_unlock_shared(1651143524, 64)
