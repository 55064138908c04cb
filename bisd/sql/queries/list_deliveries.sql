-- The newest deliveries: of the webhook $1 and in the state $2, unless these are null; $3 at most.
select *
from bisd.delivery_status s
where ($1::bigint is null or s.webhook_id = $1) and ($2::text is null or s.state = $2)
order by s.created_at desc, s.event_id desc, s.webhook_id
limit $3
