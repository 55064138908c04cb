-- The webhooks of some shards that owe something: a loose scan that touches one index entry per webhook, not per delivery.
-- $1 the shards, bit n for shard n.
with recursive owing as (
    (select webhook_id from bisd.delivery order by webhook_id limit 1)
    union all
    select (select d.webhook_id from bisd.delivery d where d.webhook_id > o.webhook_id order by d.webhook_id limit 1)
    from owing o
    where o.webhook_id is not null
)
select webhook_id
from owing
where webhook_id is not null and ($1::bigint >> (webhook_id & 63)::integer) & 1 = 1
