-- What is owed to the webhooks of some shards, by how these are doing. $1 the shards, bit n for shard n; $2 how many deliveries
-- are counted at most, of each state. A row for each state: `state` is well, failing, parked, or held (switched off, or the
-- account's plan has no webhooks); `owed`; to how many `webhooks`; `due_for`, seconds since the oldest that is due was (0: none
-- is). In each row `estimate`: how many are owed by all shards, as the last ANALYZE found.
with owing as materialized (
    select o.webhook_id, first.due_at,
           case when not (w.enabled and p.webhooks) then 'held'
                when w.next_probe_at is not null then 'parked'
                when w.failing_since is not null then 'failing'
                else 'well'
           end as state
    from bisd.owing() o (webhook_id)
    join bisd.webhook w on w.id = o.webhook_id
    join bisd.account a on a.id = w.account_id
    join bisd.plan p on p.name = a.plan
    cross join lateral (
        select d.due_at from bisd.delivery d
        where d.webhook_id = o.webhook_id and d.webhook_id > 0 order by d.due_at, d.event_id limit 1
    ) first
    where ($1::bigint >> (o.webhook_id & 63)::integer) & 1 = 1
)
select s.state, counted.owed, summed.webhooks,
       coalesce(greatest(0, extract(epoch from now() - summed.due_since)), 0)::double precision as due_for,
       (select greatest(0, reltuples)::bigint from pg_catalog.pg_class where oid = 'bisd.delivery'::regclass) as estimate
from (values ('well'), ('failing'), ('parked'), ('held')) s (state)
cross join lateral (
    select count(*) as webhooks, min(o.due_at) as due_since from owing o where o.state = s.state
) summed
cross join lateral (
    select count(*) as owed
    from (
        select
        from owing o
        cross join lateral (select from bisd.delivery d where d.webhook_id = o.webhook_id) d
        where o.state = s.state
        limit $2::bigint
    ) first_ones
) counted
