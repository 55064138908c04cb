-- The deliveries of event $1, of the account $2 unless that is null: what it is owed is looked for at the webhooks of its account.
select s.*
from (
    select a.webhook_id from bisd.attempt a where a.event_id = $1
    union
    select w.id from bisd.event e join bisd.webhook w on w.account_id = e.account_id where e.id = $1
) k
cross join lateral bisd.delivery_of($1, k.webhook_id) s
where $2::bigint is null or s.account_id = $2::bigint
order by s.webhook_id
