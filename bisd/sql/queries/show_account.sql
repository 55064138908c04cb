-- Account $1 with its keys, as they are stored; if it is $2, unless that is null.
select a.id, a.name, a.plan, p.webhooks, a.created_at, a.api_key, a.previous_api_key, a.previous_until,
       (select count(*) from bisd.webhook w where w.account_id = a.id and w.removed_at is null) as subscriptions
from bisd.account a
join bisd.plan p on p.name = a.plan
where a.id = $1 and ($2::bigint is null or a.id = $2::bigint)
