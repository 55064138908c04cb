-- The account $1 gets a new key; the one before it stays valid for $2. Answers the new key.
select bisd.rotate_key($1, $2)
