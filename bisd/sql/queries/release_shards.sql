-- Lets the shards $1 go.
select pg_advisory_unlock(1651143524, shard) from unnest($1::integer[]) as shard
