-- The next deliveries of many lanes, each from its horizon on: by due time, or by event id where the lane is ordered.
-- $1 webhook ids; $2 and $3 the horizons (due time, event id): what is asked for begins there; $4 how many at most, per lane,
-- and $5 how many octets of bodies, about (at least one delivery each); $6 whether the lane is ordered.
-- (webhook_id > 0: as delivery_lane has it. offset 0: as in look.sql.) Columns as in model.Delivery; in order within a lane.
-- Tests go past the lanes. What has an empty body is as in look.sql.
select d.webhook_id, d.event_id, d.event_created_at, d.owed_since, d.due_at, d.attempts,
       coalesce(e.topic, '') as topic,
       coalesce(convert_to(e.body::text, 'UTF8'), '') as body, d.bytes, d.test, e.traceparent
from unnest($1::bigint[], $2::timestamptz[], $3::bigint[], $4::integer[], $6::boolean[]) as lane (webhook_id, due_at, event_id, room, ordered)
cross join lateral (
    select *
    from (
        select next.*, sum(next.bytes) over (rows unbounded preceding) as so_far
        from (
            (select *
             from bisd.delivery owed
             where not lane.ordered and owed.webhook_id = lane.webhook_id and owed.webhook_id > 0 and not owed.test
               and (owed.due_at, owed.event_id) >= (lane.due_at, lane.event_id)
             order by owed.due_at, owed.event_id
             limit lane.room)
            union all
            (select *
             from bisd.delivery owed
             where lane.ordered and owed.webhook_id = lane.webhook_id and not owed.test and owed.event_id >= lane.event_id
             order by owed.event_id
             limit lane.room)
        ) next
    ) counted
    where counted.so_far - counted.bytes < $5
) d
left join lateral (
    select e.topic, e.body, e.traceparent
    from bisd.event e
    where e.id = d.event_id and e.created_at = d.event_created_at and d.bytes <= 64 << 20
    offset 0
) e on true
