-- Webhook $1, of the account $2 unless that is null: its settings, and how it is doing. Of its own headers only the names: their
-- values may be secrets. `tag` is another text whenever any of its settings is.
select w.id, w.account_id, w.topic, w.url, w.description, w.enabled, w.max_in_flight, w.rate, w.ordered,
       h.header_names as headers, w.filter::text as filter, w.created_at, w.switched_at,
       h.state, h.note, h.success_rate, h.last_success_at, h.streak, h.failing_since, h.deactivates_at, h.next_probe_at,
       h.backlog, h.oldest_waiting, p.webhooks as in_plan,
       md5(row(w.id, w.url, w.description, w.enabled, w.max_in_flight, w.rate, w.ordered, w.headers, w.filter::text, w.switched_at)::text) as tag
from bisd.webhook w
join bisd.webhook_health h on h.webhook_id = w.id
join bisd.account a on a.id = w.account_id
join bisd.plan p on p.name = a.plan
where w.id = $1 and ($2::bigint is null or w.account_id = $2::bigint)
