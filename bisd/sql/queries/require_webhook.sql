-- Whether there is a webhook $1, of the account $2 unless that is null.
select exists (
    select from bisd.webhook w where w.id = $1 and w.removed_at is null and ($2::bigint is null or w.account_id = $2::bigint))
