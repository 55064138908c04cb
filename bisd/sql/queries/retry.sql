-- The deliveries of event $1, to the webhook $2 unless that is null, of the account $3 unless that is null, are due now. Answers to how
-- many webhooks.
select count(*) filter (where bisd.retry($1, k.webhook_id))
from (
    select a.webhook_id from bisd.attempt a where a.event_id = $1
    union
    select w.id from bisd.event e join bisd.webhook w on w.account_id = e.account_id where e.id = $1
) k
join bisd.webhook w on w.id = k.webhook_id
where ($2::bigint is null or k.webhook_id = $2::bigint) and ($3::bigint is null or w.account_id = $3::bigint)
