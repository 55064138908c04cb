-- Deliveries of all webhooks, tried or settled, by what was tried last, the latest first: with the verdict $3 unless that is null;
-- settled ones only if $4; tried from $5 on and before $6, unless null; of topic $8 unless that is null. Before the row $2 of partition
-- $1 of the history, null for its end. $7 attempts at most are looked at, and $9 deliveries are enough; where there are fewer, and
-- may be more, a last row without an event says how far it was looked.
with looked as materialized (
    select b.*
    from bisd.attempts_before($1::text, $2::text::tid, $3::text::bisd.verdict, $4, $5, $6, $7) with ordinality
        b (at_part, at_place, event_id, webhook_id, attempted_at, verdict, number)
), kept as materialized (
    -- In order, so that what came after an attempt is asked of no more than are enough.
    select b.*
    from (select b.* from looked b where b.event_id is not null order by b.number offset 0) b
    cross join lateral bisd.last_of_delivery(b.webhook_id, b.event_id, b.attempted_at, b.verdict)
    where ($8::text is null or exists (select from bisd.webhook w where w.id = b.webhook_id and w.topic = $8::text))
    limit $9::bigint
), last as (
    select b.at_part, b.at_place, b.number
    from looked b
    where (select count(*) from kept) < $9::bigint
      and (select count(*) = $7 or bool_or(l.event_id is null) from looked l)
    order by b.number desc
    limit 1
)
select b.at_part, b.at_place::text as at_place, b.attempted_at as at, b.event_id, b.webhook_id
from (
    select k.* from kept k
    union all
    select l.at_part, l.at_place, null, null, null, null, l.number + 1 from last l
) b
order by b.number
