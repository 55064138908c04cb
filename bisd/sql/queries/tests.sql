-- The tests that are owed in some shards. $1 the shards, bit n for shard n. Columns as in model.Delivery.
-- (offset 0: as in look.sql.)
select d.webhook_id, d.event_id, d.event_created_at, d.owed_since, d.due_at, d.attempts,
       coalesce(e.topic, '') as topic,
       coalesce(convert_to(e.body::text, 'UTF8'), '') as body, d.bytes, d.test, e.traceparent
from bisd.delivery d
left join lateral (
    select e.topic, e.body, e.traceparent
    from bisd.event e
    where e.id = d.event_id and e.created_at = d.event_created_at and d.bytes <= 64 << 20
    offset 0
) e on true
where d.test and ($1::bigint >> (d.webhook_id & 63)::integer) & 1 = 1
