-- What a lane must know of its webhooks. $1 webhook ids. Columns as in model.Webhook.
select w.id, w.account_id, w.url, a.api_key, a.previous_api_key, a.previous_until, w.max_in_flight,
       w.enabled and p.webhooks as live
from bisd.webhook w
join bisd.account a on a.id = w.account_id
join bisd.plan p on p.name = a.plan
where w.id = any ($1::bigint[])
