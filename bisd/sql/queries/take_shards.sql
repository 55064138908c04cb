-- Takes those of the shards $1 that are still free; answers the ones that are now ours.
select shard
from unnest($1::integer[]) as shard
where pg_try_advisory_lock(1651143524, shard)
