-- The account of the token whose SHA-256 is $1; null if it opens nothing.
select bisd.use_token($1)
