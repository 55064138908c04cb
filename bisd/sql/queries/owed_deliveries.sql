-- Deliveries that are owed, of the latest events first, to some webhooks: of account $1, or webhook $2 (of that account, unless it is
-- null), and of topic $3 unless that is null. In the state $4; if that is null, those not tried yet. Of events that happened from $5
-- on and before $6, unless null; and before the place ($7 event, $8 webhook). Of each webhook $9 are looked at, of more than ten
-- webhooks fewer of each, of thousands ten; $10 rows at most. One row at least: how far it was looked ("looked_...",
-- null: to the end).
with scope as materialized (
    select w.id, w.live
    from bisd.webhook w
    where $2::bigint is not null and w.id = $2::bigint and ($1::bigint is null or w.account_id = $1::bigint)
      and ($3::text is null or w.topic = $3::text)
    union all
    select w.id, w.live
    from bisd.webhook w
    where $2::bigint is null and w.account_id = $1::bigint and ($3::text is null or w.topic = $3::text)
), shared as (
    select s.id, s.live, least($9::bigint, greatest(10, 10 * $9::bigint / count(*) over ())) as most
    from scope s
), looked as materialized (
    select d.*, s.live, s.most
    from shared s
    cross join lateral (
        select d.event_id, d.webhook_id, d.event_created_at, d.attempts, d.test, row_number() over (order by d.event_id desc) as number
        from bisd.delivery d
        where d.webhook_id = s.id and d.event_id <= $7::bigint and (d.event_id, d.webhook_id) < ($7::bigint, $8::bigint)
        order by d.event_id desc
        limit s.most
    ) d
), horizon as (
    -- Of a webhook that has more, nothing is known beyond here: of none, then.
    select l.event_id, l.webhook_id
    from looked l
    where l.number = l.most
    order by l.event_id desc, l.webhook_id desc
    limit 1
), kept as (
    select l.*
    from looked l
    left join horizon h on true
    where (h.event_id is null or (l.event_id, l.webhook_id) >= (h.event_id, h.webhook_id))
      and case $4::text
          when 'pending' then l.attempts = 0 and (l.live or l.test)
          when 'retrying' then l.attempts > 0 and (l.live or l.test)
          when 'held' then not (l.live or l.test)
          else l.attempts = 0 end
      and ($5::timestamptz is null or l.event_created_at >= $5::timestamptz)
      and ($6::timestamptz is null or l.event_created_at < $6::timestamptz)
    order by l.event_id desc, l.webhook_id desc
    limit $10::bigint
)
select k.event_id, k.webhook_id, k.event_created_at as at, h.event_id as looked_event, h.webhook_id as looked_webhook
from (values (1)) one (row)
left join horizon h on true
left join kept k on true
order by k.event_id desc, k.webhook_id desc
