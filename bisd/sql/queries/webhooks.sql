-- What a lane must know of its webhooks. $1 webhook ids. Columns as in model.Webhook: headers as JSON, if there are any;
-- recovered_at while it matters; when it was last sent something, if it has a rate; then those of model.Standing. How often a
-- failing one has failed since its last success is counted anew, by index, as far as anybody asks.
select w.id, w.account_id, w.url, a.api_key, a.previous_api_key, a.previous_until, w.max_in_flight,
       w.live, w.ordered, w.rate, nullif(w.headers, '{}')::text as headers, w.resumed_at,
       case when w.recovered_at > now() - interval '10 seconds' then w.recovered_at end as recovered_at,
       case when w.rate is not null then (
           select t.attempted_at
           from bisd.attempt t
           where t.webhook_id = w.id and t.number is not null and not t.test
           order by t.attempted_at desc
           limit 1
       ) end as sent_at,
       greatest(w.failing_since, known.succeeded_at) as failing_since,
       case when w.failing_since is null then 0 when known.succeeded_at is null then greatest(w.failures, known.failures)
            else known.failures end::integer as failures,
       w.warned, w.next_probe_at, w.probes
from bisd.webhook w
join bisd.account a on a.id = w.account_id
cross join lateral (
    select count(*) filter (where not latest.taken) as failures,
           max(latest.attempted_at) filter (where latest.delivered and latest.attempted_at > w.failing_since) as succeeded_at
    from (select t.attempted_at, t.verdict = 'delivered' as delivered,
                 bool_or(t.verdict = 'delivered') over (order by t.attempted_at desc rows unbounded preceding) as taken
          from bisd.attempt t
          where w.failing_since is not null and t.webhook_id = w.id and t.attempted_at >= coalesce(w.resumed_at, '1970-01-01')
            and t.number is not null and not t.test
          order by t.attempted_at desc
          limit 1000) latest
) known
where w.id = any ($1::bigint[])
