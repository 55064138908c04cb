-- $1 account id, $2 description, $3 when it expires, or null. One row: id, token.
select id, token from bisd.create_token($1, $2, $3)
