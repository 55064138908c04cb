-- Bench: $1 accounts.
insert into bisd.account (name, plan, api_key)
select 'shop ' || number, 'large', 'bis_' || encode(sha256(number::text::bytea), 'hex')
from generate_series(1, $1::bigint) number
