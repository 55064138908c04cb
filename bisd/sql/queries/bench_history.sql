-- Bench: $1 attempts, $2 days ago, at the webhooks from 1 to $3; $4 is the first event's number.
insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, first_byte_ms, total_ms)
select $4::bigint + number, 1 + number % $3::bigint, at, at, 1, 'delivered', 200, 1.5, 1.6
from generate_series(0, $1::bigint - 1) number
cross join lateral (
    select date_trunc('day', now() at time zone 'UTC') at time zone 'UTC' - $2::integer * interval '1 day'
           + number * 0.001 * interval '1 second' as at
) moment
