-- This session is no member of the fleet any more; the shards that it holds are still its own. The others count again at once.
select pg_advisory_unlock_shared(1651143524, 64), pg_notify('bisd', 'fleet')
