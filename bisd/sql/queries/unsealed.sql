-- A batch of the accounts that have keys to be sealed, in the order of (sealed_under, id): those sealed under an id below $1
-- or above $2 (in plain: ''), after ($3, $4), $5 at most.
select id, sealed_under, api_key, previous_api_key
from (
    (
        select a.id, a.sealed_under, a.api_key, a.previous_api_key
        from bisd.account a
        where a.sealed_under < $1 and (a.sealed_under, a.id) > ($3, $4)
        order by a.sealed_under, a.id
        limit $5
    )
    union all
    (
        select a.id, a.sealed_under, a.api_key, a.previous_api_key
        from bisd.account a
        where a.sealed_under > $2 and (a.sealed_under, a.id) > ($3, $4)
        order by a.sealed_under, a.id
        limit $5
    )
) found
order by sealed_under, id
limit $5
