-- $1 account ids, $2 and $3 SHA-256 of the keys and previous keys that were read, $4 and $5 the same keys, sealed; null in $3
-- and $5 where there is no previous key. Answers the ids of the accounts that were still unchanged, and now are sealed.
select bisd.seal_keys($1::bigint[], $2::bytea[], $3::bytea[], $4::text[], $5::text[])
