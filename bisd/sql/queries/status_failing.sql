-- The $1 webhooks that have failed for longest, with what their rows say.
select w.id, w.account_id, w.failures, w.failing_since, w.next_probe_at, w.deactivates_at, w.note
from bisd.webhook w
where w.removed_at is null and w.enabled and w.failing_since is not null
order by w.failing_since
limit $1
