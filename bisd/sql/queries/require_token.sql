-- Whether there is a token $1, of the account $2 unless that is null.
select exists (select from bisd.token t where t.id = $1 and ($2::bigint is null or t.account_id = $2::bigint))
