-- What came of the attempts since $1, in steps of $2 of time: how many there were of each verdict, and how long those took that were
-- answered. $3 pages of the tables at most are read: all of them, or so many by chance, the same ones each time, and then numbers are
-- what they would be of all.
with size as (
    select least(100, 100.0 * $3::integer * current_setting('block_size')::integer / greatest(1, sum(pg_relation_size(c.oid)))) as percent
    from pg_catalog.pg_inherits i
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'bisd.attempt'::regclass
      and case when c.relname ~ '_[0-9]{8}$'
               then to_date(right(c.relname, 8), 'YYYYMMDD') >= ($1::timestamptz at time zone 'UTC')::date
               else true end
)
select date_bin($2::interval, a.attempted_at, $1::timestamptz) as at,
       s.percent >= 100 as exact,
       round(count(*) filter (where a.verdict = 'delivered') * 100 / s.percent)::bigint as delivered,
       round(count(*) filter (where a.verdict = 'retry') * 100 / s.percent)::bigint as retried,
       round(count(*) filter (where a.verdict = 'failed') * 100 / s.percent)::bigint as failed,
       round(count(*) filter (where a.verdict in ('expired', 'refused', 'cancelled')) * 100 / s.percent)::bigint as dropped,
       percentile_disc(array[0.5, 0.95, 0.99]) within group (order by a.total_ms) filter (where a.status is not null) as took_ms
from size s
cross join lateral (
    select attempted_at, verdict, status, total_ms, test
    from bisd.attempt tablesample system (s.percent) repeatable (0)
    where attempted_at >= $1::timestamptz
) a
where not a.test
group by 1, s.percent
order by 1
