-- What came of the attempts since $1, in steps of $2 of time: how many there were of each verdict, and how long those took that were
-- answered. About $3 pages of the history are read: all of them, or as many of each step, and then numbers are what they would be of
-- all (bisd.sampled_attempts): each attempt weighs as much as it stands for, in what half of them took at most as well.
select a.at, a.exact,
       coalesce(round(sum(a.stands_for) filter (where a.verdict = 'delivered')), 0)::bigint as delivered,
       coalesce(round(sum(a.stands_for) filter (where a.verdict = 'retry')), 0)::bigint as retried,
       coalesce(round(sum(a.stands_for) filter (where a.verdict = 'failed')), 0)::bigint as failed,
       coalesce(round(sum(a.stands_for) filter (where a.verdict in ('expired', 'refused', 'cancelled'))), 0)::bigint as dropped,
       case when bool_or(a.answered > 0) then array[
           min(a.total_ms) filter (where a.until_here >= 0.5 * a.answered),
           min(a.total_ms) filter (where a.until_here >= 0.95 * a.answered),
           min(a.total_ms) filter (where a.until_here >= 0.99 * a.answered)] end as took_ms
from (
    select s.*, sum(s.weight) over (partition by s.at order by s.total_ms rows unbounded preceding) as until_here,
           sum(s.weight) over (partition by s.at) as answered
    from (
        select date_bin($2::interval, a.attempted_at, $1::timestamptz) as at, a.*,
               case when a.status is not null then a.stands_for else 0 end as weight
        from bisd.sampled_attempts($1::timestamptz, $2::interval, $3::integer) a
    ) s
) a
group by 1, 2
order by 1
