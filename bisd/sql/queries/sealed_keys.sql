-- Every sealed key, previous ones among them, with its account.
select a.id, k.key
from bisd.account a
cross join lateral (values (a.api_key), (a.previous_api_key)) k (key)
where k.key ~ '^sealed:'
order by a.id
