-- Webhooks in the order of their ids, of the account $1 unless that is null: those after $2, $3 at most, or all.
select w.id, w.account_id, w.topic, w.url, w.description, w.enabled, p.webhooks as in_plan,
       bisd.webhook_state(w.enabled, p.webhooks, w.off_reason, w.failing_since, w.next_probe_at) as state, w.created_at
from bisd.webhook w
join bisd.account a on a.id = w.account_id
join bisd.plan p on p.name = a.plan
where w.removed_at is null and ($1::bigint is null or w.account_id = $1) and w.id > $2::bigint
order by w.id
limit $3::bigint
