-- How webhook $1 is doing, of the account $2 unless that is null.
select h.webhook_id, h.account_id, h.topic, h.state, h.note, h.success_rate, h.last_success_at, h.streak, h.failing_since,
       h.deactivates_at, h.next_probe_at, h.backlog, h.oldest_waiting
from bisd.webhook_health h
where h.webhook_id = $1 and ($2::bigint is null or h.account_id = $2::bigint)
