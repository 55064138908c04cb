-- How many webhooks are in which state.
select bisd.webhook_state(w.enabled, p.webhooks, w.off_reason, w.failing_since, w.next_probe_at) as state, count(*) as webhooks
from bisd.webhook w
join bisd.account a on a.id = w.account_id
join bisd.plan p on p.name = a.plan
where w.removed_at is null
group by 1
order by 1
