-- What has arrived since the last look, and the snapshot that the next look goes by, read under one snapshot.
-- $1 the last look's snapshot, as text; $2 our shards, bit n for shard n; $3 how many deliveries at most, and $4 how many
-- octets of bodies, about; $5 null, or how long a member may take no answer: then the fleet is counted too (members, free, evicted, as
-- in bisd.members). The first row tells everything up to evicted, and no delivery; then there is one row per delivery, that tells
-- nothing else. As many deliveries as $3, or octets as $4: there may be more, ask overflow.sql.
--
-- A delivery whose event is gone has an empty body, which no JSON is; so has one whose body is larger than any daemon is ever told
-- to send (max_body_bytes is 64 MiB at most), and is not read. (offset 0: a session that plans while the partitions of days
-- to come are empty, and known to be, would join with all of each otherwise, and keep that plan.)
--
-- Arrived is what became visible between the two snapshots: rows of transactions that were in progress at the last look, or
-- had not begun. Rows of older ones are not walked, even if a transaction left open keeps their dead versions around.
select
    pg_current_snapshot()::text as snapshot,
    clock_timestamp() as looked_at,
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
    fleet.members, fleet.free, fleet.evicted,
    null::bigint as webhook_id, null::bigint as event_id, null::timestamptz as event_created_at, null::timestamptz as owed_since,
    null::timestamptz as due_at, null::integer as attempts, null::text as topic, null::bytea as body, null::integer as bytes,
    null::boolean as test, null::text as traceparent
from (values (1)) as one
left join lateral (select * from bisd.members($5::interval) where $5::interval is not null) fleet on true
union all
select null, null, null, null, null, null,
       d.webhook_id, d.event_id, d.event_created_at, d.owed_since, d.due_at, d.attempts, coalesce(e.topic, ''),
       coalesce(convert_to(e.body::text, 'UTF8'), ''), d.bytes, d.test, e.traceparent
from (
    select found.*, sum(found.bytes) over (rows unbounded preceding) as so_far
    from (
        select * from bisd.delivery began_since where began_since.txid >= pg_snapshot_xmax($1::text::pg_snapshot)
        union all
        select * from bisd.delivery in_progress
        where in_progress.txid = any (array(select pg_snapshot_xip($1::text::pg_snapshot)))
    ) found
    where ($2::bigint >> (found.webhook_id & 63)::integer) & 1 = 1
    limit $3
) d
left join lateral (
    select e.topic, e.body, e.traceparent
    from bisd.event e
    where e.id = d.event_id and e.created_at = d.event_created_at and d.bytes <= 64 << 20
    offset 0
) e on true
where d.so_far - d.bytes < $4
