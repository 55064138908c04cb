-- What came of the attempts since $2 at the webhooks of account $1, in steps of $3 of time, as in history.sql. The last $4 of each
-- webhook are read, of more than two webhooks fewer of each, of thousands ten: it is exact from when all of them are.
with shared as materialized (
    select w.id, least($4::bigint, greatest(10, 2 * $4::bigint / count(*) over ())) as most
    from bisd.webhook w
    where w.account_id = $1::bigint
), looked as materialized (
    select a.*
    from shared s
    cross join lateral (
        select a.attempted_at, a.verdict, a.status, a.total_ms, a.test,
               row_number() over (order by a.attempted_at desc) = s.most as is_last
        from bisd.attempt a
        where a.webhook_id = s.id and a.attempted_at >= $2::timestamptz
        order by a.attempted_at desc
        limit s.most
    ) a
), horizon as (
    select max(l.attempted_at) filter (where l.is_last) as at from looked l
)
select date_bin($3::interval, l.attempted_at, $2::timestamptz) as at,
       coalesce(date_bin($3::interval, l.attempted_at, $2::timestamptz) > h.at, true) as exact,
       count(*) filter (where l.verdict = 'delivered') as delivered,
       count(*) filter (where l.verdict = 'retry') as retried,
       count(*) filter (where l.verdict = 'failed') as failed,
       count(*) filter (where l.verdict in ('expired', 'refused', 'cancelled')) as dropped,
       percentile_disc(array[0.5, 0.95, 0.99]) within group (order by l.total_ms) filter (where l.status is not null) as took_ms
from looked l
cross join horizon h
where not l.test
group by 1, 2
order by 1
