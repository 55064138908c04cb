-- The webhooks of some shards that owe something. $1 the shards, bit n for shard n.
select o.webhook_id
from bisd.owing() o (webhook_id)
where ($1::bigint >> (o.webhook_id & 63)::integer) & 1 = 1
