-- For a look that came back full: which webhooks something arrived for, however much, and the earliest due time of it.
-- $1 the last look's snapshot, as text; $2 our shards, bit n for shard n. The same two branches as look.sql.
-- One row per webhook, each with the snapshot that the next look goes by; at least one row (webhook_id null).
select
    pg_current_snapshot()::text as snapshot,
    array(
        select w.id
        from (
            select id from bisd.webhook began_since where began_since.txid >= pg_snapshot_xmax($1::text::pg_snapshot)
            union all
            select id from bisd.webhook in_progress
            where in_progress.txid = any (array(select pg_snapshot_xip($1::text::pg_snapshot)))
        ) w
        where ($2::bigint >> (w.id & 63)::integer) & 1 = 1
    ) as changed,
    arrived.*
from (values (1)) as one
left join lateral (
    select d.webhook_id, min(d.due_at) as due_at
    from (
        select * from bisd.delivery began_since where began_since.txid >= pg_snapshot_xmax($1::text::pg_snapshot)
        union all
        select * from bisd.delivery in_progress
        where in_progress.txid = any (array(select pg_snapshot_xip($1::text::pg_snapshot)))
    ) d
    where ($2::bigint >> (d.webhook_id & 63)::integer) & 1 = 1
    group by d.webhook_id
) arrived on true
