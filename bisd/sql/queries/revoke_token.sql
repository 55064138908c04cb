-- $1 token id.
select bisd.revoke_token($1)
