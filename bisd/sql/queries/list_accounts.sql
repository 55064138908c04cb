-- Every account, without its key.
select a.id, a.name, a.plan, p.webhooks, a.created_at
from bisd.account a
join bisd.plan p on p.name = a.plan
order by a.id
