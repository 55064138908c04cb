-- Event $1 with its body, of the account $2 unless that is null.
select e.id, e.account_id, e.topic, e.body::text as body, e.created_at, e.webhook_id, e.test, e.traceparent
from bisd.event e
where e.id = $1 and ($2::bigint is null or e.account_id = $2::bigint)
