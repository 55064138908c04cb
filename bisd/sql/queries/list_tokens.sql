-- The tokens of the account $1, or of all if that is null, in the order of their ids, without what they are: those after $2, $3 at
-- most, or all.
select t.id, t.account_id, t.description, t.created_at, t.expires_at, t.revoked_at, t.last_used_at
from bisd.token t
where ($1::bigint is null or t.account_id = $1::bigint) and t.id > $2::bigint
order by t.id
limit $3::bigint
