-- How the webhooks of account $1 are doing, at a glance, in the order of their ids, $2 at most: of each the verdicts of its last $3
-- POSTs, the latest first, and how much it is owed, counted up to $4. Tests count for nothing.
select w.id, w.topic, w.url, w.description, w.enabled, p.webhooks as in_plan,
       bisd.webhook_state(w.enabled, p.webhooks, w.off_reason, w.failing_since, w.next_probe_at) as state,
       case when w.enabled and not p.webhooks then null else w.note end as note,
       recent.verdicts, recent.last_at, owed.backlog
from bisd.webhook w
join bisd.account a on a.id = w.account_id
join bisd.plan p on p.name = a.plan
cross join lateral (
    select array_agg(t.verdict::text order by t.attempted_at desc) as verdicts, max(t.attempted_at) as last_at
    from (select t.verdict, t.attempted_at
          from bisd.attempt t
          where t.webhook_id = w.id and t.number is not null and not t.test
          order by t.attempted_at desc
          limit $3::bigint) t
) recent
cross join lateral (
    select count(*) as backlog
    from (select from bisd.delivery d where d.webhook_id = w.id and not d.test limit $4::bigint) d
) owed
where w.account_id = $1::bigint and w.removed_at is null
order by w.id
limit $2::bigint
