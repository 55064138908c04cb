-- What came of the attempts since $1, in steps of $2 of time: how many there were of each verdict, and how long those took that were
-- answered. About $3 pages of the history are read: all of them, or as many of each step, and then numbers are what they would be of
-- all (bisd.sampled_attempts): each attempt weighs as much as it stands for, in what half of them took at most as well.
with sampled as materialized (
    select date_bin($2::interval, a.attempted_at, $1::timestamptz) as at, a.*
    from bisd.sampled_attempts($1::timestamptz, $2::interval, $3::integer) a
), counted as (
    select s.at, s.exact,
           coalesce(round(sum(s.stands_for) filter (where s.verdict = 'delivered')), 0)::bigint as delivered,
           coalesce(round(sum(s.stands_for) filter (where s.verdict = 'retry')), 0)::bigint as retried,
           coalesce(round(sum(s.stands_for) filter (where s.verdict = 'failed')), 0)::bigint as failed,
           coalesce(round(sum(s.stands_for) filter (where s.verdict in ('expired', 'refused', 'cancelled'))), 0)::bigint as dropped,
           sum(s.stands_for) filter (where s.status is not null) as answered
    from sampled s
    group by 1, 2
), running as (
    select s.at, s.total_ms, sum(s.stands_for) over (partition by s.at order by s.total_ms rows unbounded preceding) as until_here
    from sampled s
    where s.status is not null
), took as (
    select r.at, array[
        min(r.total_ms) filter (where r.until_here >= 0.5 * c.answered),
        min(r.total_ms) filter (where r.until_here >= 0.95 * c.answered),
        min(r.total_ms) filter (where r.until_here >= 0.99 * c.answered)] as took_ms
    from running r
    join counted c on c.at = r.at
    group by 1
)
select c.at, c.exact, c.delivered, c.retried, c.failed, c.dropped, t.took_ms
from counted c
left join took t on t.at = c.at
order by c.at
