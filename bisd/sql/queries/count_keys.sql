-- How many keys, previous ones among them, are sealed under which master key's id; '' for those in plain.
select coalesce(substring(k.api_key from '^sealed:1:([0-9a-f]{16}):'), '') as key_id, count(*) as keys
from bisd.account a
cross join lateral (values (a.api_key), (a.previous_api_key)) k (api_key)
where k.api_key is not null
group by 1
order by 1
