-- Bench: a webhook for each account from $1 to $2, at the URL $3, in which {id} is the account's number; $4 its rate.
insert into bisd.webhook (account_id, topic, url, enabled, rate)
select id, 'notification/create', replace($3::text, '{id}', id::text), true, $4::double precision
from bisd.account
where id between $1::bigint and $2::bigint
order by id
