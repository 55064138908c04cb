-- Bench: how many deliveries to the webhooks from $2 to $3 were made since $1, and when the first was sent.
select count(*) filter (where verdict = 'delivered') as delivered, min(attempted_at) as began
from bisd.attempt
where attempted_at >= $1::timestamptz and webhook_id between $2::bigint and $3::bigint
