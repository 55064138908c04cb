-- What came of the attempts since $1, in steps of $2 of time: how many there were of each verdict, and how long those took that were
-- answered. About $3 pages of the history are read: all of them, or as many of each step, and then numbers are what they would be of
-- all (bisd.sampled_attempts).
select date_bin($2::interval, a.attempted_at, $1::timestamptz) as at,
       a.exact,
       coalesce(round(sum(a.stands_for) filter (where a.verdict = 'delivered')), 0)::bigint as delivered,
       coalesce(round(sum(a.stands_for) filter (where a.verdict = 'retry')), 0)::bigint as retried,
       coalesce(round(sum(a.stands_for) filter (where a.verdict = 'failed')), 0)::bigint as failed,
       coalesce(round(sum(a.stands_for) filter (where a.verdict in ('expired', 'refused', 'cancelled'))), 0)::bigint as dropped,
       percentile_disc(array[0.5, 0.95, 0.99]) within group (order by a.total_ms) filter (where a.status is not null) as took_ms
from bisd.sampled_attempts($1::timestamptz, $2::interval, $3::integer) a
group by 1, 2
order by 1
