-- The deliveries of event $1, to the webhook $2 unless that is null, are cancelled. Answers to how many webhooks.
select count(*) filter (where bisd.cancel(s.event_id, s.webhook_id))
from bisd.delivery_status s
where s.event_id = $1 and ($2::bigint is null or s.webhook_id = $2)
