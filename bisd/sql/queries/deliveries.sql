-- The deliveries of the events $1 to the webhooks $2, pairwise and in that order, as in bisd.delivery_status; of the account $3 and in
-- the state $4, unless these are null.
select s.*
from unnest($1::bigint[], $2::bigint[]) with ordinality k (event_id, webhook_id, number)
cross join lateral bisd.delivery_of(k.event_id, k.webhook_id) s
where ($3::bigint is null or s.account_id = $3::bigint) and ($4::text is null or s.state = $4::text)
order by k.number
