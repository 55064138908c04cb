-- For a look that came back full: which webhooks something arrived for, however much, and the earliest due time of it.
-- $1 the last look's snapshot, as text; $2 our shards, bit n for shard n. The same two branches as look.sql.
-- The first row has the snapshot that the next look goes by, and which webhooks were changed; then there is one row per webhook.
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
    null::bigint as webhook_id, null::timestamptz as due_at
union all
select null, null, d.webhook_id, min(d.due_at)
from (
    select * from bisd.delivery began_since where began_since.txid >= pg_snapshot_xmax($1::text::pg_snapshot)
    union all
    select * from bisd.delivery in_progress
    where in_progress.txid = any (array(select pg_snapshot_xip($1::text::pg_snapshot)))
) d
where ($2::bigint >> (d.webhook_id & 63)::integer) & 1 = 1
group by d.webhook_id
