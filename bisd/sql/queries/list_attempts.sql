-- The attempts of event $1 in order, at the webhooks of account $2 unless that is null: the last 200 at each.
select a.webhook_id, a.number, a.attempted_at, a.verdict::text as verdict, a.status, a.code, a.due_at,
       a.dns_ms, a.connect_ms, a.tls_ms, a.first_byte_ms, a.total_ms, a.resent, a.location, a.answer
from (
    select t.*, row_number() over (partition by t.webhook_id order by t.attempted_at desc) as latest
    from bisd.attempt t
    where t.event_id = $1
) a
where a.latest <= 200
  and ($2::bigint is null or exists (select from bisd.webhook w where w.id = a.webhook_id and w.account_id = $2::bigint))
order by a.webhook_id, a.attempted_at
