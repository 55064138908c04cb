-- Every attachment, and the faults it has had. One whose table is gone is told by the name that the table had.
select a.id, coalesce(t.source::regclass::text, a.source) as table, a.topic, a.on_event as "on",
       case when t.source is null then 'gone' when t.enabled then 'attached' else 'switched off' end as state,
       a.strict, coalesce(f.events, 0)::bigint as faults, last.at as last_fault_at, last.sqlstate as last_fault
from bisd.attachment a
join bisd.attached t using (id)
left join lateral (select sum(f.events) as events from bisd.attachment_fault f where f.attachment_id = a.id) f on true
left join lateral (
    select f.at, f.sqlstate from bisd.attachment_fault f where f.attachment_id = a.id order by f.at desc limit 1
) last on true
order by a.id
