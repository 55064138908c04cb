-- Bench: how many deliveries to the webhooks up to $2 were made since $1, and when the first was sent.
select count(*) filter (where verdict = 'delivered') as delivered, min(attempted_at) as began
from bisd.attempt
where attempted_at >= $1::timestamptz and webhook_id <= $2::bigint
