-- The attempts of event $1 in order, at the webhooks of account $2 unless that is null.
select a.webhook_id, a.number, a.attempted_at, a.verdict::text as verdict, a.status, a.code, a.due_at,
       a.dns_ms, a.connect_ms, a.tls_ms, a.first_byte_ms, a.total_ms, a.resent, a.location, a.answer
from bisd.attempt a
where a.event_id = $1
  and ($2::bigint is null or exists (select from bisd.webhook w where w.id = a.webhook_id and w.account_id = $2::bigint))
order by a.webhook_id, a.attempted_at
