-- $1 name, $2 plan. One row: id, api_key.
select id, api_key from bisd.create_account($1, $2)
