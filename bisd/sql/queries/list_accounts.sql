-- Accounts in the order of their ids, without their keys: those after $1, $2 at most, or all.
select a.id, a.name, a.plan, p.webhooks, a.created_at
from bisd.account a
join bisd.plan p on p.name = a.plan
where a.id > $1::bigint
order by a.id
limit $2::bigint
