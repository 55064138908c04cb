-- What is to be said of some webhooks, in order. $1 webhook ids, $2 the first failure since the last success, $3 how many since,
-- $4 at how many percent of the way to deactivation its owner was warned, $5 the next probe, $6 failed probes, $7 when
-- deactivation would come, $8 why it is to be deactivated (null: it is not), $9 what the last attempt failed with.
select bisd.report(r.webhook_id, r.failing_since, r.failures, r.warned, r.deactivates_at, r.next_probe_at, r.probes,
                   r.deactivate, r.last_error)
from unnest(
    $1::bigint[], $2::timestamptz[], $3::integer[], $4::integer[], $5::timestamptz[], $6::integer[], $7::timestamptz[],
    $8::text[], $9::text[]
) as r (webhook_id, failing_since, failures, warned, next_probe_at, probes, deactivates_at, deactivate, last_error)
