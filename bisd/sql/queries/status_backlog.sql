-- What is owed: how many deliveries, counted up to $1 and estimated beyond; to how many webhooks; and since when the oldest of
-- those that are due has been, by a look at each webhook's first one.
with counted as (
    select count(*) as owed from (select from bisd.delivery limit $1::bigint + 1) as counting
)
select
    case when c.owed <= $1::bigint then c.owed
         else greatest(c.owed, (select reltuples::bigint from pg_catalog.pg_class where oid = 'bisd.delivery'::regclass))
    end as owed,
    c.owed <= $1::bigint as exact,
    (select count(*) from bisd.owing()) as webhooks,
    (select min(first.due_at)
     from bisd.owing() o (webhook_id)
     cross join lateral (
         select d.due_at from bisd.delivery d
         where d.webhook_id = o.webhook_id and d.webhook_id > 0 order by d.due_at, d.event_id limit 1
     ) first
     where first.due_at <= now()) as due_since
from counted c
