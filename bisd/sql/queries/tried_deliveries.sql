-- Deliveries that were tried or settled, by what was tried last, the latest first, of some webhooks: of account $1, or of webhook
-- $2 (of that account, unless it is null), and of topic $3 unless that is null. Of verdict $4, or all; settled ones only if $5.
-- Tried from $6 on and before $7, unless null; and before the place ($8 attempted at, $9 event, $10 webhook). Of each webhook $11
-- attempts are looked at, of more than ten webhooks fewer of each, of thousands ten; $12 rows at most. One row at
-- least: how far it was looked ("looked_...", null: to the end).
with scope as materialized (
    select w.id
    from bisd.webhook w
    where $2::bigint is not null and w.id = $2::bigint and ($1::bigint is null or w.account_id = $1::bigint)
      and ($3::text is null or w.topic = $3::text)
    union all
    select w.id
    from bisd.webhook w
    where $2::bigint is null and w.account_id = $1::bigint and ($3::text is null or w.topic = $3::text)
), shared as (
    select s.id, least($11::bigint, greatest(10, 10 * $11::bigint / count(*) over ())) as most
    from scope s
), looked as materialized (
    select a.*, s.most
    from shared s
    cross join lateral (
        select a.attempted_at, a.event_id, a.webhook_id, a.verdict,
               row_number() over (order by a.attempted_at desc, a.event_id desc) as number
        from bisd.attempt a
        where a.webhook_id = s.id and a.attempted_at <= $8::timestamptz
          and (a.attempted_at, a.event_id, a.webhook_id) < ($8::timestamptz, $9::bigint, $10::bigint)
          and a.attempted_at >= coalesce($6::timestamptz, '-infinity')
          and a.attempted_at < coalesce($7::timestamptz, 'infinity')
        order by a.attempted_at desc, a.event_id desc
        limit s.most
    ) a
), horizon as (
    -- Of a webhook that has more, nothing is known beyond here: of none, then.
    select l.attempted_at, l.event_id, l.webhook_id
    from looked l
    where l.number = l.most
    order by l.attempted_at desc, l.event_id desc, l.webhook_id desc
    limit 1
), kept as (
    -- In order, so that what came after an attempt is asked of no more than are shown.
    select l.*
    from (
        select l.*
        from looked l
        left join horizon h on true
        where (h.event_id is null or (l.attempted_at, l.event_id, l.webhook_id) >= (h.attempted_at, h.event_id, h.webhook_id))
          and ($4::text is null or l.verdict = $4::text::bisd.verdict)
          and (not $5::boolean or l.verdict not in ('retry', 'postponed'))
        order by l.attempted_at desc, l.event_id desc, l.webhook_id desc
        offset 0
    ) l
    cross join lateral bisd.last_of_delivery(l.webhook_id, l.event_id, l.attempted_at, l.verdict)
    order by l.attempted_at desc, l.event_id desc, l.webhook_id desc
    limit $12::bigint
)
select k.event_id, k.webhook_id, k.attempted_at as at,
       h.attempted_at as looked_at, h.event_id as looked_event, h.webhook_id as looked_webhook
from (values (1)) one (row)
left join horizon h on true
left join kept k on true
order by k.attempted_at desc, k.event_id desc, k.webhook_id desc
