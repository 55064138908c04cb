-- What is another text whenever something has happened to those webhooks of account $1 that a glance shows: they were changed or
-- removed, tried within the last ten minutes, or are owed something new, or less. A look at three indexes for each of $2 of them.
select concat_ws(' ', sum(w.id), max(w.txid::text::bigint), max(tried.at), max(owed.newest), sum(owed.number)) as stamp
from (select w.id, w.txid
      from bisd.webhook w
      where w.account_id = $1::bigint and w.removed_at is null
      order by w.id
      limit $2::bigint) w
cross join lateral (
    select max(t.attempted_at) as at
    from bisd.attempt t
    where t.webhook_id = w.id and t.attempted_at > now() - interval '10 minutes'
) tried
cross join lateral (
    select max(d.event_id) as newest, count(*) as number
    from (select d.event_id from bisd.delivery d where d.webhook_id = w.id order by d.event_id desc limit 100) d
) owed
